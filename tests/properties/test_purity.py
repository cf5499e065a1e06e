"""Estimating changes nothing: parameters, buffers, .grad, optimizer, random state, modes."""

from __future__ import annotations

import random

import cases
import measures
import numpy as np
import pytest
import torch
from torch import nn

import vfunc

pytestmark = pytest.mark.usefixtures("float64")


class Noted(nn.Module):
    """A learner with buffers: batch statistics, and dropout that eval mode silences."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = cases.NormedNetwork()
        self.statistics = nn.BatchNorm1d(cases.CLASSES)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x):
        return self.dropout(self.statistics(self.inner(x)))


def snapshot(module, optimizer, phi):
    """Everything that may not change, copied."""
    tensors = {f"parameter {n}": p for n, p in module.named_parameters()}
    tensors |= {f"buffer {n}": b for n, b in module.named_buffers()}
    tensors |= {f"grad {n}": p.grad for n, p in module.named_parameters()}
    tensors |= {f"phi {n}": x for n, x in phi.items()}
    for n, p in module.named_parameters():
        for key, value in optimizer.state[p].items():
            tensors[f"optimizer {n} {key}"] = value
    tensors["random"] = torch.get_rng_state()
    modes = {n: m.training for n, m in module.named_modules()}
    needs = {n: p.requires_grad for n, p in module.named_parameters()}
    copies = {n: x.detach().clone() for n, x in tensors.items()}
    return copies, modes, needs, random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002


ALL = [
    ("first_order", {}),
    ("first_order", {"value": "cosine"}),
    ("first_order", {"value": "preconditioned"}),
    ("unrolled", {"lookahead_steps": 3}),
    ("implicit", {"damping": 10.0}),
    ("random", {}),
    ("zero", {}),
    ("first_order", {"value": "deflated", "means": 2}),
    ("first_order", {"value": "deflated_preconditioned"}),
]


@pytest.mark.parametrize("training", [False, True], ids=["eval", "mixed"])
@pytest.mark.parametrize(("name", "options"), ALL)
def test_estimating_changes_nothing(name, options, training):
    module = cases.seeded(Noted, 3).eval()
    module.inner.train(training)  # a mixture of modes has to come back as a mixture
    made = cases._supervised(
        learner := vfunc.functional(module, "all"),
        measures.generator(3),
        learner.theta,
        view=True,
    )
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.05)
    x, y = made.problem.batches[1]
    nn.functional.cross_entropy(module(x), y).backward()
    optimizer.step()
    rule, state = vfunc.from_optimizer(optimizer, learner.live)
    problem = vfunc.ValueProblem(
        made.problem.construct,
        made.problem.pretrain_loss,
        made.problem.feedback_loss,
        made.problem.batches,
        rule,
        state,
        means=({n: x + 1 for n, x in made.theta.items()},),
    )
    before = snapshot(module, optimizer, made.phi | problem.means[0])
    engines = ["reverse", "forward", "finite_difference"] if name != "zero" else [None]
    for engine in engines:
        chosen = options if engine is None else options | {"engine": engine}
        if engine == "finite_difference" and name == "implicit":
            chosen = chosen | {"solver_tolerance": 1e-6}
        estimate = vfunc.make_estimator(name, chosen)(problem, learner.theta, made.phi)
        assert not any(x.requires_grad for x in estimate.grad.values())
        assert not estimate.value.requires_grad and not estimate.objective.requires_grad
    after = snapshot(module, optimizer, made.phi | problem.means[0])
    assert before[0].keys() == after[0].keys()
    for key, x in before[0].items():
        assert torch.equal(x, after[0][key]), key
    assert before[1:] == after[1:]


def test_a_functional_learner_in_train_mode_keeps_batch_statistics():
    module = cases.seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), 0).train()
    learner = vfunc.functional(module)
    before = {n: b.clone() for n, b in module.named_buffers()}
    learner(learner.theta, torch.randn(8, 3))
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, before[name]), name


def test_same_arguments_same_numbers():
    made = cases.situation("mlp view", 5)
    for name, options in ALL:
        ask = vfunc.make_estimator(name, options)
        one = ask(made.problem, made.theta, made.phi)
        torch.rand(3)
        two = ask(made.problem, made.theta, made.phi)
        assert torch.equal(one.objective, two.objective)
        assert all(torch.equal(one.grad[n], two.grad[n]) for n in one.grad)
