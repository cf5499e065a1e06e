"""Runs whose designer sees the learner's hidden state: options, certification, resuming."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_run import new_run, parts_of, same, shallow_learner, small

from vfunc import trees
from vfunc.designer_file import save_designer
from vfunc.errors import UserError
from vfunc.language.hidden_state import HiddenState
from vfunc.training import step
from vfunc.training.build.configuration import given_options, resolve, to_toml
from vfunc.training.certifying import certified_arm, certify_start
from vfunc.training.checkpoint import load_checkpoint, save_checkpoint
from vfunc.training.loop import one_step
from vfunc.training.run_command_line import given_on_command_line

pytestmark = pytest.mark.usefixtures("shallow")
HIDDEN = {"designer_features": "hidden", "designer_width": 5}


@pytest.mark.parametrize("align", ["all", "last:1"])
def test_it_looks_at_what_enters_the_first_block_of_s(align):
    run = new_run(**HIDDEN, align=align)
    assert run.workload.designer.hidden == HiddenState(1, run.state.learner.config.hidden_size)
    forward = run.workload.forward(
        run.state.learner, run.workload.batch(0), observe=True, estimated=run.estimated
    )
    assert forward.observed.observation.hidden.shape[:2] == forward.batch.inputs.shape
    if align == "last:1":
        assert torch.equal(forward.observed.observation.hidden, forward.observed.edge)
    unseen = run.workload.forward(run.state.learner, run.workload.batch(0), observe=False)
    assert unseen.observed is None


@pytest.mark.parametrize(
    "options",
    [
        {"targets": "gate", "align": "last:1", "meta_batch_size": 1},
        {"targets": "bounded", "value": "cosine"},
        {"targets": "free", "estimator": "unrolled", "lookahead_steps": 2},
        {"feedback_tasks": "styles", "feedback_combine": "matched", "batch_size": 4},
        {"precision": "bfloat16", "feedback_bank": 4, "feedback_every": 2, "gate_penalty": 0.3},
    ],
    ids=["gate", "bounded", "lookahead", "matched", "bfloat16"],
)
def test_it_trains(options):
    run = new_run(**HIDDEN, **options)
    start = {n: p.detach().clone() for n, p in run.state.designer.named_parameters()}
    done = [one_step(run) for _ in range(2)]
    moved = {n for n, p in run.state.designer.named_parameters() if not torch.equal(p, start[n])}
    assert {"before.weight", "after.weight", "gate.0.weight"} <= moved
    assert all("value" in one for one in done)


def test_it_is_certified_by_the_same_means():
    parts = parts_of(small(certify=True, align="last:1", **HIDDEN))
    found = certify_start(certified_arm(parts), parts)
    assert found.estimators[0].verdict == "exact"


def test_the_state_is_constant_in_an_estimate():
    """A task's hidden state is that of theta_t: moving theta moves no task."""
    run = new_run(**HIDDEN, align="last:1")
    observed = run.workload.look_ahead(run.state.learner, run.workload.batch(0))
    problem = step.value_problem(run, (observed,), 0)
    phi = trees.detach(dict(run.state.designer.named_parameters()))
    before = problem.construct(phi, problem.batches[0])["q"]
    with torch.no_grad():
        for p in run.state.learner.parameters():
            p.mul_(1.1)
    assert torch.equal(before, problem.construct(phi, problem.batches[0])["q"])


def test_a_resumed_run_is_the_run_that_was_not(tmp_path):
    path = tmp_path / "checkpoint.pt"
    run = new_run(**HIDDEN)
    one_step(run)
    save_checkpoint(run.state, path)
    again = new_run(**HIDDEN)
    load_checkpoint(again.state, path)
    for one in (run, again):
        one_step(one)
    assert same(run.state.designer.state_dict(), again.state.designer.state_dict())
    assert same(run.state.learner.state_dict(), again.state.learner.state_dict())


def test_a_directory_is_a_learner_like_any(tmp_path):
    run = new_run(**HIDDEN, learner=shallow_learner(), align="last:1", lr=1e-3)
    assert run.workload.designer.hidden.block == 1
    one_step(run)


def test_a_saved_designer_looks_where_it_did(tmp_path):
    path = tmp_path / "designer.safetensors"
    first = new_run(**HIDDEN)
    save_designer(first.state.designer, path)
    later = new_run(designer=str(path), align="last:1")
    assert later.workload.designer == first.workload.designer
    one_step(later)
    config = dataclasses.replace(first.workload.designer, hidden=HiddenState(1, 7))
    save_designer(type(first.state.designer)(config), path)
    with pytest.raises(UserError, match="made for a hidden state of 7 numbers at block 1, and"):
        new_run(designer=str(path), arms=("vpretraining",))


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ("--designer-features hidden", "hidden"),
        ("--designer-features=hidden", "hidden"),
        ("--designer_features hidden --seed 1", "hidden"),
        ("--designer-features", True),
        ("--designer-features --seed 1", True),
        ("--no-designer-features", False),
    ],
)
def test_a_switch_with_a_third_setting(words, value):
    given = given_on_command_line(words.split())
    assert given["designer_features"] is value or given["designer_features"] == value
    config = resolve(given)
    assert config.options["designer_features"] == value
    assert resolve(given_options(config)) == config and "designer_features = " in to_toml(config)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"designer_features": "hiden"}, "must be true or false or hidden, not 'hiden'"),
        ({"designer_features": 1}, "must be true or false or hidden"),
        (HIDDEN | {"designer_heads": 2}, "has no blocks of its own"),
        (HIDDEN | {"designer_layers": 2}, "has no blocks of its own"),
        (HIDDEN | {"arms": ("baseline",)}, "it needs an arm with a designer"),
        (HIDDEN | {"designer": "some.safetensors"}, "saved with the designer"),
    ],
)
def test_what_does_not_fit_is_refused(given, said):
    with pytest.raises(UserError, match=said):
        resolve(given)
