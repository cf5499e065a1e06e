"""The split at S's lower edge in the loop, and what a run says of its engine."""

from __future__ import annotations

import dataclasses
import io

import cases
import measures
import pytest
import torch
from small_run import new_run, train

import vfunc
from vfunc import trees
from vfunc.language.data.examples import take_rows
from vfunc.language.learner import LanguageLearner
from vfunc.learner import RandomState
from vfunc.report.events import EventLog
from vfunc.report.progress import progress
from vfunc.split import Split
from vfunc.training.log import RunLog
from vfunc.training.step import feedback_at, value_problem

pytestmark = pytest.mark.usefixtures("deep")  # the edge has blocks below it
LAST = {"align": "last:1", "batch_size": 4}


def at_start(**options):
    """The arm in train mode, as the loop has it, and its first batch."""
    run = new_run(**LAST | options)
    return run, run.workload.batch(0)


def problem_of(run, observed, dropout=None):
    return value_problem(run, (observed,), feedback_at(run, 0, dropout))


def forward_and_ahead(run, batch):
    """The batch as the learner's own forward observes it, and as a look ahead does."""
    workload, learner = run.workload, run.state.learner
    own = workload.forward(learner, batch, observe=True, estimated=run.estimated).observed
    return own, workload.look_ahead(learner, batch, estimated=run.estimated)


def test_the_edge_comes_from_the_learner_s_own_forward():
    run, batch = at_start()
    own, ahead = forward_and_ahead(run, batch)
    without = run.workload.forward(run.state.learner, batch, observe=True).observed
    assert without.edge is None and not own.edge.requires_grad
    made = problem_of(run, without).batches[0].edge
    assert own.edge.shape == (*batch.inputs.shape, run.state.learner.config.hidden_size)
    for edge in (own.edge, ahead.edge):
        torch.testing.assert_close(edge, made, rtol=1e-5, atol=1e-5)
    problem = problem_of(run, own)
    assert problem.batches[0].edge is own.edge
    assert problem.split == "the lower 2 of 3 blocks are computed once, without tangents"
    rows = torch.tensor([1, 3])
    assert torch.equal(take_rows(own, rows).edge, own.edge[rows])


def test_what_came_out_of_dropout_is_no_edge():
    run, batch = at_start(lora_rank=2, lora_dropout=0.5, align="lora:last:1")
    own, ahead = forward_and_ahead(run, batch)
    assert own.edge is None
    made = problem_of(run, own).batches[0].edge
    torch.testing.assert_close(made, ahead.edge, rtol=1e-5, atol=1e-5)
    drawn = RandomState.now(torch.device("cpu"))
    repeated = problem_of(run, ahead, drawn)
    assert repeated.batches[0].edge is None
    assert repeated.split.startswith("estimates repeat the dropout")
    learner = LanguageLearner(run.state.functional, None, drawn)
    with pytest.raises(vfunc.UserError, match="dropout is repeated cannot be split"):
        dataclasses.replace(learner, split=Split("model.layers", 1, 3))


def test_an_arms_learner_is_tried_once(monkeypatch):
    tried, cut = [], LanguageLearner.cut
    monkeypatch.setattr(LanguageLearner, "cut", lambda *args: tried.append(1) or cut(*args))
    train(**LAST, budget="2steps", probe_batches=1)
    assert len(tried) == 1
    train("baseline", **LAST, budget="1steps")
    assert len(tried) == 1  # it has no estimates


@pytest.mark.parametrize("estimator", [{}, {"estimator": "unrolled", "lookahead_steps": 2}])
def test_training_is_the_same_cut_or_whole(monkeypatch, estimator):
    cut = train(**LAST, **estimator)
    monkeypatch.setattr(LanguageLearner, "cut", lambda self, batch: self)
    whole = train(**LAST, **estimator)
    phi, start = (
        trees.detach(cut.phi),
        trees.detach(new_run(**LAST).state.designer.state_dict()),
    )
    moved = measures.size(trees.axpy(-1.0, start, phi))
    assert measures.size(trees.axpy(-1.0, trees.detach(whole.phi), phi)) <= 1e-3 * moved
    for one, other in zip(cut.of("value"), whole.of("value"), strict=True):
        assert one == pytest.approx(other, rel=1e-4)


def test_attention_of_its_own_leaves_finite_differences(monkeypatch):
    run, batch = at_start()
    learner = run.state.learner
    observed = run.workload.look_ahead(learner, batch)
    assert problem_of(run, observed).no_second_order is None
    monkeypatch.setattr(learner.config, "_attn_implementation_internal", "flash_attention_2")
    reason = run.estimated.no_second_order
    assert reason == "flash_attention_2 attention has neither a forward mode nor a double backward"
    adapted, _ = at_start(lora_rank=2, align="lora:last:1")
    config = adapted.state.learner.get_base_model().config
    monkeypatch.setattr(config, "_attn_implementation_internal", "flex_attention")
    assert adapted.estimated.no_second_order.startswith("flex_attention")
    assert LanguageLearner(vfunc.functional(cases.NormedNetwork())).no_second_order is None


@pytest.mark.parametrize(
    ("options", "engine", "why", "split"),
    [
        (LAST, "linear", "auto: the objective is linear in the targets", "the lower 2 of 3 blocks"),
        ({"engine": "reverse"}, "reverse", "asked for", "S takes in the first block"),
    ],
)
def test_the_engine_is_named_once_with_the_first_estimate(options, engine, why, split):
    log = train(budget="5steps", burn_in=2, **options).log
    kinds = [e["kind"] for e in log.events]
    assert kinds.count("engine") == 1
    event = log.events[kinds.index("engine")]
    assert (event["engine"], event["engine_why"], event["step"]) == (engine, why, 3)
    assert event["split"].startswith(split)


def test_an_arm_without_estimates_names_no_engine():
    assert not train("baseline").of("engine", "engine")


def test_the_engine_is_shown_in_a_line(tmp_path):
    fields = {"arm": "a", "step": 1, "engine": "linear", "engine_why": "it can", "split": "cut"}
    text = io.StringIO()
    with (
        EventLog(tmp_path / "events.jsonl") as events,
        progress("a", stream=text) as display,
    ):
        log = RunLog(events, display, tmp_path / "checkpoint", "tokens")
        log.event("engine", fields)
        log.event("engine", fields | {"split": ""})
    lines = text.getvalue().splitlines()
    assert lines == ["engine    linear (it can; cut)", "engine    linear (it can)"]
