"""What is told of feedback and known tasks before training: against gradients taken by hand."""

import dataclasses
import statistics

import pytest
import torch
from small_run import new_run as new_language_run
from small_vision_run import defaults, new_run, train

from vfunc import trees
from vfunc.evaluation.expected import in_words
from vfunc.problem import known_feedback
from vfunc.report.probe_events import foresights_of
from vfunc.training.foretelling.foresee_command import main
from vfunc.training.foretelling.foresight import _told, foresee

SHORTCUT = {"problem": "shortcut", "feedback_every": 1, "designer_warmup": 0, "local_crops": 0}


def cosine(a, b):
    a, b = trees.flatten(a), trees.flatten(b)
    return float(a @ b / a.norm() / b.norm())


def test_agreements_are_cosines_of_draws_that_share_nothing():
    run = new_run(probe_batches=0)
    theta = run.state.functional.theta
    (f0, f1), (h0, h1) = run.workload.halves(run.estimated)
    assert f0.examples == f1.examples == h0.examples == 4
    g = [known_feedback(half.losses[0], theta, run.workload.processes).gradient
         for half in (f0, f1, h0, h1)]  # fmt: skip
    found = foresee(run)
    assert found["agreement_within"] == pytest.approx(cosine(g[0], g[1]), abs=1e-5)
    across = statistics.fmean([cosine(g[0], g[3]), cosine(g[1], g[2])])
    assert found["agreement_held_out"] == pytest.approx(across, abs=1e-5)
    assert "gaps" not in found  # no probe is asked for


def test_feedback_that_stands_for_something_else_is_told_from_its_own():
    class Elsewhere:
        def __init__(self, examples, source):
            self.examples = examples

        def __len__(self):
            return len(self.examples)

        def __getitem__(self, index):
            found = self.examples[index]
            return dataclasses.replace(found, segmentation=3 - found.segmentation.clamp(min=0))

    run = new_run(labels=("segmentation",))
    sources = tuple(
        dataclasses.replace(s, held_out=Elsewhere(s.held_out, s)) for s in run.workload.sources
    )
    other = dataclasses.replace(run, workload=dataclasses.replace(run.workload, sources=sources))
    assert foresee(other)["agreement_held_out"] < foresee(run)["agreement_held_out"]


@pytest.mark.parametrize("objective", ["dino", "ijepa"])
def test_gaps_are_of_the_arms_own_views(objective):
    given = {k: v for k, v in SHORTCUT.items() if objective == "dino" or k != "local_crops"}
    run = new_run(probe_batches=2, objective=objective, **given)
    gaps = foresee(run)["gaps"]
    assert set(gaps) == {"known_objects", "uniform_blur"}
    assert all(gap["batches"] == 2 and "t" in gap for gap in gaps.values())
    told = run.workload.of_arm("known_objects")
    batch = told.batch(1)
    views = told.build_task(
        run.state.learner,
        "known_objects",
        told.forward(run.state.learner, batch, observe=False),
        None,
    ).task[0]
    tasks = run.workload.known_tasks(
        run.estimated,
        1,
        run.estimated.observe(run.workload.look_ahead(run.state.learner, batch)),
        {},
    )
    held = run.workload.meta_batch_size
    if "views edge" not in tasks["known_objects"]:
        assert torch.equal(tasks["known_objects"]["views"], views[:, :held])
    assert torch.equal(tasks["baseline"]["views"], batch.views[:, :held])


def test_of_text_it_is_the_arm_that_knows_the_mistakes():
    found = foresee(new_language_run(probe_batches=2))
    assert set(found["gaps"]) == {"known_wrong"} and found["agreement_within"] < 1


def test_too_little_feedback_says_nothing():
    assert foresee(new_run(feedback_size=1, feedback_batch_size=1)) == {}


def test_a_run_tells_it_once_before_its_first_step():
    trained = train(probe_batches=1, budget="2steps")
    kinds = [e["kind"] for e in trained.log.events]
    assert kinds.count("foresight") == 1 and kinds.index("foresight") < kinds.index("step")
    assert foresights_of(trained.log.events)["vpretraining"]["agreement_examples"] == 4
    quiet = train(probe_batches=0, budget="1steps")
    assert "foresight" not in [e["kind"] for e in quiet.log.events]


def test_a_mean_and_students_t():
    assert _told([1.0, 2.0, 3.0]) == pytest.approx({"mean": 2.0, "batches": 3.0, "t": 12**0.5})
    assert _told([1.0]) == {"mean": 1.0, "batches": 1.0}
    assert _told([1.0, 1.0]) == {"mean": 1.0, "batches": 2.0}


def test_in_words():
    found = {
        "agreement_within": 0.5, "agreement_held_out": -0.21, "agreement_examples": 64,
        "gaps": {"known_objects": {"mean": 0.0013, "batches": 20.0, "t": 8.6}},
    }  # fmt: skip
    first, second = in_words(found)
    assert "64 feedback examples agree to +0.50" in first and "to -0.21: feedback points" in first
    assert second.endswith("V(known_objects) - V(baseline) +0.0013 a step, over 20 batches, t 8.6")
    similar = in_words(found | {"agreement_held_out": 0.45, "gaps": {}})
    assert len(similar) == 1 and similar[0].endswith("+0.45")
    assert "will not help" in in_words(found | {"agreement_held_out": 0.1})[0]
    assert in_words({}) == []


def test_the_command_says_it_and_writes_nothing(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [w for k, v in defaults({}).items() for w in _option(k, v)]
    assert main([*words, "--probe-batches", "1"]) == 0
    said = capsys.readouterr().out
    assert "4 feedback examples agree to" in said and "V(known_objects) - V(baseline)" in said
    assert not list(tmp_path.iterdir())
    assert main(["--arms", "baseline"]) == 2
    assert "none of them asks feedback" in capsys.readouterr().err


def _option(name, value):
    flag = "--" + name.replace("_", "-")
    if isinstance(value, bool):
        return [flag if value else f"--no-{flag[2:]}"]
    return [flag, str(value)]
