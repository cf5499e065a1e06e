"""What `--stream` says of a mixture, and what is refused, in a line each."""

from __future__ import annotations

import pytest

from vfunc.errors import UserError
from vfunc.language.data.mixture import (
    WINDOW,
    caps_of,
    domains_of,
    fields_of,
    read_mixture,
    read_weight,
    tasks_of,
    without_weight,
)
from vfunc.training.build.configuration import resolve

OWN = {"stream": ("a.jsonl", "b.jsonl"), "feedback": ("c.jsonl", "d.jsonl"), "eval": "e.jsonl"}


@pytest.mark.parametrize(
    ("text", "name", "weight"),
    [
        ("a.jsonl:0.35", "a.jsonl", 0.35),
        ("a.jsonl:2", "a.jsonl", 2.0),
        ("org/web:1e-1", "org/web", 0.1),
        ("org/web:en:.5", "org/web:en", 0.5),
        ("org/web:en:train:3", "org/web:en:train", 3.0),
        ("org/web:2023:train", "org/web:2023:train", None),
        ("org/web:20231101.en:train", "org/web:20231101.en:train", None),
        ("org/web:3.0.0", "org/web:3.0.0", None),
        ("org/web::test", "org/web::test", None),
        ("a.jsonl", "a.jsonl", None),
    ],
)
def test_a_number_at_the_end_is_a_weight(text, name, weight):
    read = read_weight(text)
    assert (read.name, read.weight) == (name, weight)
    assert without_weight(text) == name


@pytest.mark.parametrize(
    ("stream", "said"),
    [
        (["org/web:2023", "b:0.5"], "may be a weight or a configuration"),
        (["a.jsonl:0", "b.jsonl:1"], "above 0 and finite"),
        (["a.jsonl:-1", "b.jsonl:1"], "above 0 and finite"),
        (["a.jsonl:nan", "b.jsonl:1"], "above 0 and finite"),
        (["a.jsonl:0.5", "b.jsonl"], "b.jsonl: has no weight"),
        (["a.jsonl:0.5"], "leave its weight out"),
        (["a.jsonl:1", "b.jsonl:1e-300"], "b.jsonl: its weight is nothing beside"),
    ],
)
def test_what_cannot_be_a_mixture_is_refused(stream, said):
    with pytest.raises(UserError, match=said):
        read_mixture(stream)


def test_weights_add_up_to_one():
    assert read_mixture(["a.jsonl:7", "b.jsonl:3"]) == (("a.jsonl", "b.jsonl"), (0.7, 0.3))
    assert read_mixture(["a.jsonl", "b.jsonl"]) == (("a.jsonl", "b.jsonl"), None)
    huge = read_mixture(["a.jsonl:1e308", "b.jsonl:1e308"])
    assert huge == (("a.jsonl", "b.jsonl"), (0.5, 0.5))


def test_a_file_of_that_very_name_wins(tmp_path):
    whole, part = tmp_path / "a.jsonl:0.5", tmp_path / "a.jsonl"
    whole.write_text("")
    assert read_weight(str(whole)).weight is None
    part.write_text("")
    with pytest.raises(UserError, match="rename one"):
        read_weight(str(whole))


def test_caps_and_fields_are_of_all_or_of_each():
    assert caps_of(None, 2) == (None, None)
    assert caps_of((5,), 2) == (5, 5)
    assert caps_of((5, 6), 2) == (5, 6)
    with pytest.raises(UserError, match="each of the 2 --stream"):
        caps_of((5, 6, 7), 2)
    assert fields_of("text=t", 2, "stream") == ("text=t", "text=t")
    assert fields_of("text=t; ", 2, "stream") == ("text=t", None)
    with pytest.raises(UserError, match="each of the 3 --feedback"):
        fields_of("text=t;text=u", 3, "feedback")


def test_domains_are_names_of_tasks():
    assert tasks_of(("m", "c", "m"), 3) == ("m", "c")
    assert domains_of(("c", "m", "none", "m"), ("m", "c"), 4) == (1, 0, 2, 0)
    assert domains_of(None, ("m", "c"), 2) == (0, 1)
    for domains, said in [
        (("m", "x"), "no feedback of 'x'"),
        (("m", "m"), "no --stream is of 'c'"),
        (("m",), "each of the 2"),
    ]:
        with pytest.raises(UserError, match=said):
            domains_of(domains, ("m", "c"), 2)
    for domains in (("m", "none"), ("m",)):
        with pytest.raises(UserError, match="--feedback-domains"):
            tasks_of(domains, 2)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"stream_cap": (3,), "stream_limit": 3}, "give one"),
        ({"stream_cap": (3, 4, 5)}, "each of the 2 --stream"),
        ({"stream_fields": "text=a;text=b;text=c"}, "each of the 2 --stream"),
        ({"stream": ("a.jsonl:1.0", "b.jsonl")}, "give all or none one"),
        ({"stream_domains": ("c", "d")}, "matched alone"),
        ({"stream_domains": ("c", "x"), "feedback_combine": "matched"}, "no feedback of 'x'"),
        ({"feedback_domains": ("c",)}, "each of the 2 --feedback"),
        ({"stream": ("a.jsonl",), "feedback_combine": "matched"}, "--stream-domains"),
        ({"feedback": ("c.jsonl",), "feedback_domains": ("c",)}, "give several"),
    ],
)
def test_contradictions_are_told_before_anything_is_read(given, said):
    with pytest.raises(UserError, match=said) as caught:
        resolve(OWN | given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["pack", "stream_cap", "shuffle_window", "data_cache"])
def test_options_of_own_data_do_nothing_to_the_embedded_problem(name):
    value = {"pack": True, "stream_cap": (3,), "shuffle_window": 9, "data_cache": "no"}[name]
    with pytest.raises(UserError, match="does nothing here"):
        resolve({name: value})


def test_a_hub_stream_without_a_cap_is_read_as_it_comes():
    def window(**given):
        return resolve(OWN | given).options["shuffle_window"]

    assert window() == 0
    assert window(stream=("org/web:en:train",)) == WINDOW
    assert window(stream=("org/web",), stream_cap=(9,)) == 0
    assert window(stream=("org/web",), stream_limit=9) == 0


def test_a_domain_is_of_several_streams_and_pools():
    config = resolve(
        OWN
        | {"stream": ("a.jsonl:1.0", "b.jsonl:1.0", "c.jsonl:2.0"), "feedback_combine": "matched"}
        | {"feedback": ("c.jsonl", "d.jsonl", "f.jsonl"), "feedback_domains": ("m", "c", "m")}
        | {"stream_domains": ("m", "c", "none")}
    )
    assert config.options["stream_domains"] == ("m", "c", "none")
