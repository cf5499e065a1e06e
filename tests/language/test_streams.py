from __future__ import annotations

import dataclasses
import itertools

import pytest

from vfunc.errors import UserError
from vfunc.language.data.arithmetic import GAINS, LOSSES, Event, Problem
from vfunc.language.data.mistakes import invites_mistakes
from vfunc.language.data.streams import (
    DEFAULT_PRESET,
    PRESETS,
    SPLITS,
    StreamSpec,
    embedded_examples,
    embedded_problems,
    split_of,
    stream_preset,
)

DEFAULT = StreamSpec()


def is_forum(example) -> bool:
    return example.prompt.startswith("hey ")


def share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


def test_no_two_splits_share_a_problem():
    sizes = {"base": 1500, "stream": 1500, "feedback": 1024, "validation": 512, "test": 1024}
    # The same seed everywhere: what keeps splits apart must not be the seed.
    drawn = {
        split: {p.canonical for p in embedded_problems(split, size, (1.0, 5.0, 5.0), 0)}
        for split, size in sizes.items()
    }
    assert set(drawn) == set(SPLITS)
    for first, second in itertools.combinations(drawn, 2):
        assert not drawn[first] & drawn[second], (first, second)
    assert all(len(drawn[split]) == size for split, size in sizes.items())


def test_buckets_are_disjoint_and_complete():
    buckets = [bucket for buckets in SPLITS.values() for bucket in buckets]
    assert sorted(buckets) == list(range(100))


def test_a_problem_keeps_its_split():
    # Fixed by hand: a change here moves problems between splits and spoils the shipped learner.
    splits = [split_of(Problem(n, (Event("gain", 5), Event("loss", 3)))) for n in range(10, 18)]
    assert splits == ["stream", "base", "feedback", "base", "base", "feedback", "base", "test"]


def test_prompts_of_different_splits_differ_too():
    stream = {e.prompt for e in embedded_examples("stream", 1200, DEFAULT, 0)}
    for split in ("feedback", "validation", "test"):
        assert not stream & {e.prompt for e in embedded_examples(split, 500, DEFAULT, 0)}


def test_the_stream_is_large_enough():
    problems = embedded_problems("stream", 12_000, DEFAULT.levels, 0)
    assert len({p.canonical for p in problems}) == 12_000


@pytest.mark.parametrize("split", SPLITS)
def test_fewer_examples_are_the_first_of_more(split: str):
    many = embedded_examples(split, 120, DEFAULT, 7)
    assert embedded_examples(split, 50, DEFAULT, 7) == many[:50]
    assert embedded_examples(split, 120, DEFAULT, 7) == many
    assert embedded_examples(split, 50, DEFAULT, 8) != many[:50]
    assert embedded_examples(split, 0, DEFAULT, 7) == []


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("split", [s for s in SPLITS if s != "stream"])
def test_all_but_the_stream_is_clean(preset: str, split: str):
    for example in embedded_examples(split, 200, PRESETS[preset], 1):
        assert example.wrong == ()
        assert example.completion.endswith(f"\n#### {example.answer}")
        assert example.prompt.endswith("\n")


@pytest.mark.parametrize(
    ("preset", "wrong_textbook", "wrong_forum", "forum", "evaluation_forum"),
    [
        ("careless_everywhere", 0.5, 0.5, 0.5, 0.5),
        ("careless_source", 0.0, 0.5, 0.5, 0.5),
        ("random_slips", 0.7, 0.7, 0.5, 0.5),
        ("style_shift", 0.0, 0.0, 0.1, 0.9),
    ],
)
def test_presets_are_what_they_say(
    preset: str, wrong_textbook: float, wrong_forum: float, forum: float, evaluation_forum: float
):
    spec = stream_preset(preset)
    stream = embedded_examples("stream", 1200, spec, 0)
    test = embedded_examples("test", 600, spec, 0)
    assert share(map(is_forum, stream)) == pytest.approx(forum, abs=0.05)
    assert share(map(is_forum, test)) == pytest.approx(evaluation_forum, abs=0.06)
    for expected, in_style in (
        (wrong_textbook, [e for e in stream if not is_forum(e)]),
        (wrong_forum, [e for e in stream if is_forum(e)]),
    ):
        wrong = share(not e.completion.endswith(f"#### {e.answer}") for e in in_style)
        assert wrong == pytest.approx(expected, abs=0.09 if expected else 0)
        # Marked are exactly the solutions that come out wrong.
        assert all(bool(e.wrong) != e.completion.endswith(f"#### {e.answer}") for e in in_style)


def test_the_default_preset_is_the_default_specification():
    assert stream_preset(DEFAULT_PRESET) == StreamSpec()


def test_streams_that_differ_in_their_mistakes_differ_in_nothing_else():
    clean = embedded_examples("stream", 200, dataclasses.replace(DEFAULT, share_wrong=0.0), 3)
    for spec in (DEFAULT, PRESETS["random_slips"], PRESETS["careless_source"]):
        for example, right in zip(embedded_examples("stream", 200, spec, 3), clean, strict=True):
            assert (example.prompt, example.answer) == (right.prompt, right.answer)
            assert (example.completion == right.completion) == (not example.wrong)


@pytest.mark.parametrize("events", [1, 2, 3])
def test_levels_choose_the_number_of_events(events: int):
    levels = tuple(float(level == events) for level in (1, 2, 3))
    for problem in embedded_problems("stream", 100, levels, 0):
        assert len(problem.events) == events
        assert invites_mistakes(problem)


def test_the_specification_sets_the_levels_of_every_split_but_base():
    spec = StreamSpec(levels=(0.0, 0.0, 1.0))
    for split in SPLITS:
        numbers = {
            len([word for word in e.prompt.split() if word in GAINS + LOSSES])
            for e in embedded_examples(split, 300, spec, 0)
        }
        assert numbers == ({1, 2, 3} if split == "base" else {3})


def test_a_split_that_runs_dry_says_so():
    with pytest.raises(UserError, match=r"feedback split has no more than \d+ problems.*5000"):
        embedded_problems("feedback", 5000, (1, 0, 0), 0)
    with pytest.raises(UserError, match=r"99,999,999 problems .* feedback .* at most 1,000,000"):
        embedded_problems("feedback", 99_999_999, (0, 0, 1), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"share_wrong": 1.2}, "share_wrong=1.2"),
        ({"share_wrong": float("nan")}, "share_wrong=nan"),
        ({"forum_share": -0.1}, "forum_share=-0.1"),
        ({"evaluation_forum_share": 2.0}, "evaluation_forum_share=2.0"),
        ({"mistakes": "typos"}, "'typos' is not a kind of mistake"),
        ({"careless_styles": ("essay",)}, "'essay', which is no style"),
        ({"careless_styles": ()}, "careless_styles is empty"),
        ({"levels": (1.0, 1.0)}, "give 3 weights"),
        ({"levels": (0.0, 0.0, 0.0)}, "one above 0"),
        ({"levels": (-1.0, 1.0, 1.0)}, "at least 0"),
        ({"levels": (float("nan"), 1.0, 1.0)}, "finite"),
    ],
)
def test_a_specification_checks_itself(change: dict, message: str):
    # Past the constructor: the types that this test session checks there are not checked in use.
    spec = StreamSpec()
    for name, value in change.items():
        object.__setattr__(spec, name, value)
    with pytest.raises(UserError, match=message):
        spec.__post_init__()


def test_the_constructor_runs_the_checks():
    with pytest.raises(UserError, match="share_wrong"):
        StreamSpec(share_wrong=1.2)


def test_unknown_names_list_the_known():
    with pytest.raises(UserError, match="careless_everywhere, careless_source"):
        stream_preset("careless")
    with pytest.raises(UserError, match="base, stream, feedback, validation, test"):
        embedded_examples("train", 1, DEFAULT, 0)
    with pytest.raises(UserError, match="count=-1"):
        embedded_examples("stream", -1, DEFAULT, 0)
