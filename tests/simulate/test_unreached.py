"""Parameters in S that the loss does not reach: torch.optim leaves them alone, so does the step."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import optimizers
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference.unrolled import unrolled
from torch import nn

import vfunc
from vfunc.simulate import Clip, from_optimizer

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)

LIVE = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, weight_decay=0.2),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.03, weight_decay=0.2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.03, weight_decay=0.2),
}


class TwoHeaded(nn.Module):
    """The self-supervised loss reads one head, the downstream loss the other."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.pretrain, self.downstream = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x, head):
        return getattr(self, head)(torch.tanh(self.body(x)))


def asked(seed, optimizer=None, **simulated):
    """(module, problem, theta, phi): a live step's question; phi weighs the features."""
    module = cases.seeded(TwoHeaded, seed)
    learner = vfunc.functional(module)
    draw = measures.generator(seed)
    batches = tuple(measures.normal(draw, 5, 3) for _ in range(3))
    feedback, labels = measures.normal(draw, 6, 3), torch.tensor([0, 1, 2, 0, 1, 2])

    def pretrain_loss(theta, task):
        return (task["weight"] * (learner(theta, task["x"], "pretrain") - task["x"]) ** 2).sum()

    def feedback_loss(theta):
        return nn.functional.cross_entropy(learner(theta, feedback, "downstream"), labels)

    rule, state = vfunc.UpdateRule(vfunc.SGD(0.1)), {}
    if optimizer is not None:
        live = LIVE[optimizer](module.parameters())
        # a step in which both heads took part, so that each has a state of its own
        (module(batches[0], "pretrain").sum() + module(batches[0], "downstream").sum()).backward()
        live.step()
        live.zero_grad()
        rule, state = from_optimizer(live, learner.live, **simulated)
    problem = vfunc.ValueProblem(
        lambda phi, x: {"x": x, "weight": torch.sigmoid(phi["weight"])},
        pretrain_loss,
        feedback_loss,
        batches,
        rule,
        state,
    )
    theta = {n: x.clone() for n, x in learner.theta.items()}
    return module, live if optimizer else None, problem, theta, {"weight": measures.normal(draw, 3)}


@pytest.mark.parametrize("optimizer", list(LIVE))
@pytest.mark.parametrize("max_norm", [None, 0.05])
@given(seed=SEEDS)
def test_simulated_steps_are_the_live_optimizer_s(optimizer, max_norm, seed):
    clip = None if max_norm is None else Clip(max_norm)
    module, live, problem, theta, phi = asked(seed, optimizer, clip=clip)
    # the state is shared with the live optimizer: simulate first
    downstream = {n: x for n, x in theta.items() if n.startswith("downstream")}
    value = vfunc.Unrolled(3)(problem, theta, phi).value
    expected = problem.feedback_loss(theta)
    learner = vfunc.functional(module)
    for batch in problem.batches:
        problem.pretrain_loss(learner.live, problem.construct(phi, batch)).backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(module.parameters(), max_norm)
        live.step()
        live.zero_grad()
    assert all(torch.equal(learner.theta[n], x) for n, x in downstream.items())
    expected = expected - problem.feedback_loss(learner.theta)
    assert float(value) == pytest.approx(float(expected), rel=1e-9)


def test_a_window_that_reached_them_before_moves_them():
    """Micro-batch one reaches both heads, micro-batch two one: .grad is there for both."""
    module, live, problem, theta, phi = asked(3, "adamw")
    learner = vfunc.functional(module)
    nn.functional.cross_entropy(module(problem.batches[1], "downstream"), torch.arange(5) % 3).div(
        2
    ).backward()
    accumulated = {n: p.grad.clone() for n, p in learner.live.items() if p.grad is not None}
    assert not any(n.startswith("pretrain") for n in accumulated)
    rule, state = from_optimizer(live, learner.live, accumulated=accumulated, weight=0.5)
    task = problem.construct(phi, problem.batches[0])
    g = vfunc.problem.step_gradient(problem, theta, task)
    assert not any(n.startswith("downstream") for n in g)
    after, _ = rule.step(theta, state, g)
    (problem.pretrain_loss(learner.live, task) / 2).backward()
    live.step()
    assert measures.apart(after, learner.theta) <= 1e-13
    assert not torch.equal(after["downstream.weight"], theta["downstream.weight"])


@pytest.mark.parametrize("optimizer", ["momentum", "nesterov", "adam", "adamw", "clip adamw"])
@pytest.mark.parametrize("steps", [1, 3])
@given(seed=SEEDS)
def test_the_adjoint_passes_them_by(optimizer, steps, seed):
    _, _, problem, theta, phi = asked(seed)
    made = optimizers.with_state(optimizer, theta, seed)
    problem = replace(problem, rule=made.rule(), state=made.state())
    value, grad = unrolled(problem, theta, phi, made, steps)
    for every in (1, steps):
        estimate = vfunc.Unrolled(steps, checkpoint_every=every)(problem, theta, phi)
        assert float(estimate.value) == pytest.approx(value, rel=1e-9, abs=1e-13)
        assert measures.apart(estimate.grad, grad) <= 1e-9


@pytest.mark.parametrize("optimizer", list(LIVE))
def test_the_preconditioned_value_leaves_them_out(optimizer):
    _, _, problem, theta, phi = asked(5, optimizer)
    estimate = vfunc.FirstOrder("preconditioned")(problem, theta, phi)
    _, g_down = vfunc.feedback_gradient(problem, theta)
    g = vfunc.pretrain_gradient(problem, theta, problem.construct(phi, problem.batches[0]))
    after, _ = problem.rule.step(theta, problem.state, g)  # moves the other head by its decay
    reached = {n: x for n, x in g_down.items() if not n.startswith("downstream")}
    expected = -sum(float((x * (after[n] - theta[n])).sum()) for n, x in reached.items())
    assert float(estimate.value) == pytest.approx(expected, rel=1e-9)
    assert measures.size(reached) < measures.size(g_down)


def test_the_state_of_what_is_not_reached_stays():
    _, _, problem, theta, phi = asked(1, "adamw")
    g = vfunc.problem.step_gradient(problem, theta, problem.construct(phi, problem.batches[0]))
    after, state = problem.rule.step(theta, problem.state, g)
    name = "downstream.weight"
    assert after[name] is theta[name]
    assert state[name] is problem.state[name]
    ones = {n: torch.ones_like(x) for n, x in theta.items()}
    state_bar = {
        n: {k: torch.ones_like(x) for k in ("exp_avg", "exp_avg_sq")} for n, x in theta.items()
    }
    theta_bar, before_bar, g_bar = problem.rule.vjp(theta, problem.state, g, ones, state_bar)
    assert torch.equal(theta_bar[name], ones[name])
    assert all(torch.equal(x, ones[name]) for x in before_bar[name].values())
    assert not g_bar[name].any()
