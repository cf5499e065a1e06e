"""A run certifies its own estimator before it begins, and is otherwise the run that it was."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from small_run import parts_of, same, small

from vfunc.report.events import read_events
from vfunc.training.certifying import EXAMPLES, certified_arm, certify_start

OWN = """
from dataclasses import replace

import vfunc


def descent():
    def estimate(problem, theta, phi):
        answer = vfunc.FirstOrder()(problem, theta, phi)
        return replace(answer, grad={n: -g for n, g in answer.grad.items()})

    return estimate
"""


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    """Runs without plots, in a folder with an estimator of one's own."""
    (tmp_path / "wrong_estimators.py").write_text(OWN)
    monkeypatch.setattr("vfunc.training.summary._plots", lambda *_: [])
    yield
    sys.modules.pop("wrong_estimators", None)


def certifications(name):
    events = read_events(Path("runs") / name / "events.jsonl")
    return [event for event in events if event["kind"] == "certification"]


def steps(name):
    noted = ("train_loss", "value", "designer_gradient_norm")
    events = read_events(Path("runs") / name / "events.jsonl")
    return [[e.get(key) for key in noted] for e in events if e["kind"] == "step"]


def test_it_says_so_once_and_trains_the_same(command, capsys):
    options = {"arms": "vpretraining", "budget": "2steps"}
    assert command(**options, certify=True, name="with") == 0
    assert "certified first_order by linear, gap " in capsys.readouterr().out
    (event,) = certifications("with")
    assert event["verdict"].endswith(", float64")
    assert {row["verdict"] for row in event["rows"]} == {"holds", "exact"}
    assert command(**options, certify=False, name="without") == 0
    assert "certified" not in capsys.readouterr().out
    assert not certifications("without")
    assert steps("with") == steps("without") and steps("with")
    assert command("--resume", "with", small_data=False) == 0
    assert "certified" not in capsys.readouterr().out
    assert certifications("with") == [event]


def test_a_wrong_gradient_stops_the_run_before_it_begins(command, capsys):
    own = {"arms": "vpretraining", "estimator": "wrong_estimators:descent", "budget": "1steps"}
    assert command(**own, certify=True) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "right on this problem, so it is the estimator's own arithmetic" in said
    assert "--no-certify" in said
    assert not Path("runs").exists()
    assert command(**own, certify=False) == 0


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "unrolled", "lookahead_steps": 2},
        {"accumulate": 2, "align": "last:1", "value": "cosine"},
    ],
    ids=["unrolled", "accumulate"],
)
def test_what_a_run_may_be_asked_for(options):
    parts = parts_of(small(certify=True, **options))
    before = {n: p.clone() for n, p in parts.learner.named_parameters()}
    found = certify_start(certified_arm(parts), parts)
    assert [row.verdict for row in found.estimators] == ["exact"]
    assert same(dict(parts.learner.named_parameters()), before)


def test_only_a_designer_that_is_trained_is_certified():
    def arm(**options):
        return certified_arm(parts_of(small(certify=True, **options)))

    without = small(arms=("baseline",))
    assert without.run.certify and certified_arm(parts_of(without)) is None
    assert arm(arms=("baseline", "random_feedback")).name == "random_feedback"
    assert arm(arms=("random_feedback", "vpretraining")).name == "vpretraining"
    assert certified_arm(parts_of(small())) is None


def test_what_would_take_long_is_left_to_the_user_and_said(command, capsys, monkeypatch):
    monkeypatch.setattr("vfunc.training.certifying.PASSES", 10)
    slow = {"arms": "vpretraining", "estimator": "implicit", "budget": "1steps", "name": "slow"}
    assert command(**slow, certify=True) == 0
    said = capsys.readouterr().out
    assert "certified nothing: one estimate takes" in said and "over 10; vfunc.certify" in said
    (event,) = certifications("slow")
    assert event["verdict"].startswith("nothing") and event["rows"] == []


def test_a_slice_is_small():
    workload = parts_of(small()).workload
    slice_ = workload.smaller(EXAMPLES)
    assert len(slice_.batch(0).tokens) == len(slice_.feedback(0).tokens) == EXAMPLES
    assert workload.smaller(100).batch_size == workload.batch_size


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({}, 90),
        ({"estimator": "unrolled", "lookahead_steps": 2}, 140),
        ({"estimator": "implicit"}, 320),
    ],
    ids=["first_order", "unrolled", "implicit"],
)
def test_what_it_may_cost(monkeypatch, options, most):
    """Forwards of two sequences: 53 take about a second, of the 85 of the default run.

    A third of them hold the loss's own gradients and forms against slopes, and ask at the end what
    was asked at the beginning; up to 27 are the engines' own first looks at the loss.
    """
    parts = parts_of(small(certify=True, **options))
    sizes, kind = [], type(parts.learner)
    real = kind.forward

    def forward(self, *args, **kwargs):  # no hook: certify would see that its list changes
        tokens = kwargs.get("input_ids", args[0] if args else None)
        sizes.append(len(tokens if tokens is not None else kwargs["inputs_embeds"]))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)
    certify_start(certified_arm(parts), parts)
    assert 10 < len(sizes) <= most and max(sizes) <= EXAMPLES
