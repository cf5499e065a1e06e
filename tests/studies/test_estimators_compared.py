"""compare --estimators: one table of estimators and of arms that do not depend on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from test_compare import compare, error_of, fake_run, write_run  # noqa: F401 (fixtures)

import vfunc
from vfunc.config.layers import Layer
from vfunc.errors import UserError
from vfunc.report.seed_statistics import UNITS_PER_SECOND
from vfunc.studies import side_by_side
from vfunc.studies.estimators_on_offer import (
    ESTIMATORS_ON_OFFER,
    estimator_of,
    named_estimators,
)
from vfunc.studies.finished_runs import by_estimator, read_run, told_twice
from vfunc.studies.repetition import plan, told_to_give_way
from vfunc.training.build.configuration import resolve


@pytest.mark.parametrize("name", ESTIMATORS_ON_OFFER)
def test_each_name_is_a_run_of_its_own(name):
    config = resolve(Layer(ESTIMATORS_ON_OFFER[name]))
    given = {k: config.options[k] for k in ESTIMATORS_ON_OFFER[name]}
    assert given == dict(ESTIMATORS_ON_OFFER[name])


def test_all_are_all_and_commas_divide():
    assert named_estimators(["all"]) == [*ESTIMATORS_ON_OFFER]
    assert named_estimators(["dot,cosine", "implicit"]) == ["dot", "cosine", "implicit"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--estimators", "--estimators wants something to follow it"),
        ("--estimators dott", "unknown 'dott'; did you mean dot"),
        ("--estimators dot,dot", "--estimators names dot twice"),
        ("--estimators dot all", "--estimators: all stands alone"),
        ("--estimators ,", "--estimators names none"),
        ("--estimators dot --value cosine", "--value is set by --estimators"),
        ("--estimators dot --vary value=dot,cosine", "--value is set by --estimators"),
        ("--estimators all --arms baseline,oracle", "is about the arm vpretraining"),
        ("--estimators dot,unrolled_4 --engine linear", "unrolled_4: --engine linear gives no"),
        ("--jobs 0", "--jobs 0: give 1 or more"),
        ("--jobs 2 --budget 10s", "--jobs 2: with a budget of time"),
        ("--from runs/a --estimators dott", "unknown 'dott'; did you mean dot"),
        ("--from runs/a --jobs 2", "--jobs would do nothing with it"),
    ],
)
def test_mistakes_are_told_in_a_line(compare, capsys, words, said):  # noqa: F811
    assert compare.main(words.split()) == 2
    assert said in error_of(capsys)


@pytest.mark.parametrize("name", ESTIMATORS_ON_OFFER)
def test_a_run_s_options_tell_the_name_of_its_estimator(name):
    options = resolve(Layer(dict(ESTIMATORS_ON_OFFER[name]))).options
    assert estimator_of(options, tuple(ESTIMATORS_ON_OFFER)) == name
    others = [other for other in ESTIMATORS_ON_OFFER if other != name]
    assert estimator_of(options, others) == ""
    assert estimator_of(resolve(Layer({"estimator": "zero"})).options, [name]) == ""


def test_arms_that_need_no_estimator_run_once_a_seed():
    rest = ["--arms", "baseline,vpretraining,oracle,mixing", "--mixing-share", "0.5", "--name", "c"]
    folder, planned = plan([3, 5], ["lr=1e-3,2e-3"], rest, named=["dot", "deflated", "unrolled_4"])
    assert folder == Path("runs/c")
    assert len(planned) == 2 * 2 * 3
    first, second, third = planned[:3]
    assert first.config.run.arms == ("baseline", "vpretraining", "oracle", "mixing")
    assert second.config.run.arms == third.config.run.arms == ("vpretraining",)
    assert first.config.options["mixing_share"] == 0.5
    assert [one.estimator for one in planned[:3]] == ["dot", "deflated", "unrolled_4"]
    assert second.config.estimator.estimator.value == "deflated"
    assert third.config.estimator.estimator.lookahead_steps == 4
    assert [str(p.directory.path) for p in planned[:2]] == [
        "runs/c/lr=1e-3/dot/seed3",
        "runs/c/lr=1e-3/deflated/seed3",
    ]
    assert {one.config.options["lr"] for one in planned} == {1e-3, 2e-3}
    assert planned[-1].config.run.seed == 5


def test_what_an_estimator_s_name_stands_for_is_not_left_to_the_next_one():
    rest = ["--arms", "baseline,vpretraining", "--name", "c"]
    _, planned = plan([0], [], rest, named=["deflated_fresh", "dot", "truncated_4", "unrolled_4"])
    fresh, dot, _, whole = (one.config.estimator.estimator for one in planned)
    assert (fresh.value, fresh.means, fresh.mean_batches) == ("deflated", 0, 4)
    assert dot == vfunc.FirstOrder()
    assert whole == vfunc.Unrolled(4)
    _, planned = plan([0], [], rest, named=["truncated_4", "unrolled_4"])
    assert planned[1].config.estimator.estimator == vfunc.Unrolled(4)


def test_without_arms_it_takes_all_that_there_are():
    _, planned = plan([0], [], [], named=["dot", "cosine"])
    arms = planned[0].config.run.arms
    assert {"known_wrong", "oracle", "tilted_oracle", "mixing", "sft"} < set(arms)
    _, planned = plan([0], [], ["--feedback-kind", "reward"], named=["dot"])
    assert not {"mixing", "sft"} & set(planned[0].config.run.arms)
    _, planned = plan([0], [], ["--modality", "vision"], named=["dot"])
    arms = planned[0].config.run.arms
    assert "oracle" in arms and not {"tilted_oracle", "known_wrong", "mixing"} & set(arms)


def planned_by_name(rest, named):
    _, planned = plan([0], [], rest, named=named)
    return {one.estimator: one.config.options for one in planned}, planned


@pytest.mark.parametrize("named", [["dot", "deflated"], ["deflated", "dot", "unrolled_4"]])
def test_a_preset_s_options_are_kept_for_the_estimators_that_use_them(named):
    options, planned = planned_by_name(["--preset", "smollm2_careless"], named)
    assert options["deflated"]["mean_bank"] == 8
    assert options["dot"]["mean_bank"] is None
    assert planned[0].config.run.arms == ("baseline", "vpretraining", "known_wrong")
    (note,) = told_to_give_way(planned)
    assert "--mean-bank in " in note
    assert "deflated" not in note.split("--mean-bank in ")[1].split(";")[0]
    assert "--value" not in note


@pytest.mark.parametrize("named", [["dot", "deflated"], ["deflated", "dot"]])
def test_an_option_that_one_named_estimator_uses_gives_way_in_the_others(named):
    options, planned = planned_by_name(["--means", "2"], named)
    assert (options["deflated"]["means"], options["dot"]["means"]) == (2, None)
    assert told_to_give_way(planned) == [
        "Options that an estimator does not use give way in its runs: --means in dot."
    ]
    options, _ = planned_by_name(
        ["--feedback-every", "3", "--meta-period", "3"], [*named, "implicit"]
    )
    assert [options[name]["feedback_every"] for name in (*named, "implicit")] == [3, 3, None]


@pytest.mark.parametrize("rest", [[], ["--preset", "smollm2_careless"]])
def test_an_option_that_no_named_estimator_uses_is_refused(rest):
    with pytest.raises(UserError, match="dot: --beta does nothing here: it is for --value"):
        plan([0], [], [*rest, "--beta", ".5"], named=["dot", "cosine"])


def test_two_names_for_one_run_are_refused(tmp_path):
    file = tmp_path / "fresh.toml"
    file.write_text('value = "deflated"\nmeans = 0\nmean_batches = 4\n')
    with pytest.raises(UserError, match="deflated and deflated_fresh are the same run"):
        plan([0], [], ["--config", str(file)], named=["deflated", "deflated_fresh"])


def test_estimators_become_arms_of_one_table(tmp_path):
    options = {"arms": ("baseline", "vpretraining"), "budget": "4steps"}
    for seed in (0, 1):
        write_run(tmp_path / f"dot{seed}", resolve(options | {"seed": seed}))
        other = options | {"value": "cosine", "arms": ("vpretraining",), "seed": seed}
        write_run(tmp_path / f"cosine{seed}", resolve(other))
    found = [
        read_run(tmp_path / f"{name}{seed}", "", name)
        for seed in (0, 1)
        for name in ("dot", "cosine")
    ]
    first, second = by_estimator(found, "vpretraining")
    assert (first.seed, second.seed) == (0, 1)
    assert list(first.arms) == ["baseline", "dot", "cosine"]
    assert first.arms["dot"] == found[0].seed_run.arms["vpretraining"]
    assert first.arms["cosine"] == found[1].seed_run.arms["vpretraining"]
    assert UNITS_PER_SECOND in first.arms["cosine"]


def test_a_comparison_tells_which_options_gave_way(compare, fake_run, capsys):  # noqa: F811
    line = "--estimators dot,deflated --arms baseline,vpretraining --seeds 0 --name c --means 2"
    assert compare.main(f"{line} --stream-size 64 --feedback-size 32 --eval-size 2".split()) == 0
    (note,) = json.loads(Path("runs/c/comparison.json").read_text())["notes"]
    assert note.endswith("--means in dot.")
    assert note in capsys.readouterr().out


def test_the_table_is_written(compare, fake_run, capsys):  # noqa: F811
    line = "--estimators dot,cosine --arms baseline,vpretraining --seeds 0 1 --name c"
    line += " --stream-size 64 --feedback-size 32 --eval-size 2"
    assert compare.main(line.split()) == 0
    assert len(fake_run.made) == 4
    content = json.loads(Path("runs/c/comparison.json").read_text())
    assert [arm["arm"] for arm in content["arms"]] == ["baseline", "dot", "cosine"]
    assert {run["estimator"] for run in content["runs"]} == {"dot", "cosine"}
    assert content["notes"] == []
    assert compare.main(line.split()) == 0  # all are finished
    assert len(fake_run.made) == 4


# --- side by side

TINY = [
    *("--budget", "1steps", "--eval-size", "2", "--batch-size", "2", "--threads", "1"),
    *("--stream-size", "64", "--name", "c"),
]


def test_runs_are_made_side_by_side_as_one_after_another(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, planned = plan([0, 1], [], [*TINY, "--arms", "baseline"])
    told = []
    side_by_side.carry_out(planned, 2, told.append)
    assert [line.split()[0] for line in told] == ["started", "started", "1", "2"]
    assert all(one.state == "finished" for one in planned)
    config = json.loads(planned[1].directory.metrics.read_text())["config"]
    assert config["seed"] == 1


def test_a_run_that_fails_is_told_and_stops_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, planned = plan([0], [], [*TINY, "--arms", "baseline"])
    planned[0].directory.path.mkdir(parents=True)
    (planned[0].directory.path / "other").write_text("not a run's")
    with pytest.raises(UserError, match=r"runs/c/seed0: .*"):
        side_by_side.carry_out(planned, 2, lambda line: None)


def test_an_arm_that_two_runs_trained_with_other_figures_is_told(tmp_path):
    found = []
    for value, arms in (("dot", "baseline,vpretraining"), ("cosine", "vpretraining,baseline")):
        config = resolve(Layer({"value": value, "arms": tuple(arms.split(","))}))
        write_run(tmp_path / value, config)
        found.append(read_run(tmp_path / value, estimator=value))
    (told,) = told_twice(found, "vpretraining")
    assert told.startswith("baseline of seed 0 was trained by 2 runs, with other figures in each")
    assert str(tmp_path / "cosine") in told
    (one,) = by_estimator(found, "vpretraining")
    assert one.arms["baseline"] == found[1].seed_run.arms["baseline"]  # as the note says
    same = [found[0], replace(found[0], path=tmp_path / "again")]
    assert told_twice(same, "vpretraining") == []
