"""Lookahead follows the schedule: later steps have the sizes that they will have."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
from torch.optim import lr_scheduler

import vfunc
from vfunc.simulate import TensorState, from_optimizer

pytestmark = pytest.mark.usefixtures("float64")


def sequential(optimizer):
    return lr_scheduler.SequentialLR(
        optimizer,
        [
            lr_scheduler.LinearLR(optimizer, 0.1, total_iters=3),
            lr_scheduler.CosineAnnealingLR(optimizer, 6),
        ],
        milestones=[3],
    )


def chained(optimizer):
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, 0.1, 2), lr_scheduler.ExponentialLR(optimizer, 0.9)],
        optimizer,
    )


SCHEDULERS = {
    "lambda": lambda o: lr_scheduler.LambdaLR(o, [lambda k: k / 5, lambda k: 1 / (1 + k)]),
    "multiplicative": lambda o: lr_scheduler.MultiplicativeLR(o, lambda k: 0.5 + 0.1 * k),
    "step": lambda o: lr_scheduler.StepLR(o, 2, 0.3),
    "multi step": lambda o: lr_scheduler.MultiStepLR(o, [1, 3, 4], 0.3),
    "constant": lambda o: lr_scheduler.ConstantLR(o, 0.2, 3),
    "linear": lambda o: lr_scheduler.LinearLR(o, 0.2, 1.0, 4),
    "exponential": lambda o: lr_scheduler.ExponentialLR(o, 0.7),
    "polynomial": lambda o: lr_scheduler.PolynomialLR(o, 6, 2.0),
    "cosine": lambda o: lr_scheduler.CosineAnnealingLR(o, 4),
    "restarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "cyclic": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.2, 2, mode="triangular2"),
    "one cycle": lambda o: lr_scheduler.OneCycleLR(o, 0.3, total_steps=12),
    "sequential": sequential,
    "chained": chained,
}


def live_one():
    """Two groups of different step sizes, with momentum."""
    parameters = {"a": torch.ones(2, requires_grad=True), "b": torch.ones(3, requires_grad=True)}
    return parameters, torch.optim.SGD(
        [{"params": [parameters["a"]]}, {"params": [parameters["b"]], "lr": 0.02}],
        lr=0.1,
        momentum=0.9,
    )


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.parametrize("taken", [0, 2])
def test_four_simulated_steps_are_the_next_four_live_ones(name, taken):
    """Whatever the scheduler moves, step sizes and momenta; the live one is not touched."""
    parameters, optimizer = live_one()
    scheduler = SCHEDULERS[name](optimizer)

    def step(k):
        for p in parameters.values():
            p.grad = torch.arange(float(len(p))) + k
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()

    for k in range(taken):
        step(k)
    rule, state = from_optimizer(optimizer, parameters, schedule=scheduler)
    state = {
        n: TensorState(s.step, {k: b.clone() for k, b in s.buffers.items()})
        for n, s in state.items()
    }
    theta = {n: p.detach().clone() for n, p in parameters.items()}
    groups, before = copy.deepcopy(optimizer.state_dict()), copy.copy(scheduler.state_dict())
    sizes = [rule.at(k).learning_rate("b") for k in (3, 1, 2, 0)]  # in any order
    assert optimizer.state_dict()["param_groups"] == groups["param_groups"]
    assert {k: repr(x) for k, x in scheduler.state_dict().items()} == {
        k: repr(x) for k, x in before.items()
    }
    for k in range(4):
        g = {n: torch.arange(float(len(p))) + taken + k for n, p in parameters.items()}
        theta, state = rule.at(k).step(theta, state, g)
        assert optimizer.param_groups[1]["lr"] == sizes[(3, 1, 2, 0).index(k)]
        step(taken + k)
        for n, p in parameters.items():
            torch.testing.assert_close(theta[n], p.detach(), rtol=1e-12, atol=1e-14)


def asked(rule, state=None):
    """A lookahead over three batches, L_pre linear in theta, so that its value is plain."""
    return vfunc.ValueProblem(
        lambda phi, batch: {"c": phi["c"] * batch},
        lambda theta, task: sum((x * task["c"]).sum() for x in theta.values()),
        lambda theta: sum(x.sum() for x in theta.values()),
        (1.0, 2.0, 3.0),
        rule,
        state or {},
    )


def test_unrolled_takes_later_sizes_and_the_scale_is_their_sum():
    p = {"a": torch.ones(1, requires_grad=True)}
    optimizer = torch.optim.SGD(p.values(), lr=0.8)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    rule, state = from_optimizer(optimizer, p, schedule=scheduler)
    theta, phi = {"a": torch.ones(1)}, {"c": torch.ones(())}
    estimate = vfunc.Unrolled(3)(asked(rule, state), theta, phi)
    assert float(estimate.value) == pytest.approx(0.8 * 1 + 0.4 * 2 + 0.2 * 3)
    assert float(estimate.grad["c"]) == pytest.approx(0.8 * 1 + 0.4 * 2 + 0.2 * 3)
    assert estimate.scale == pytest.approx(1.4)
    cut = vfunc.Unrolled(3, truncate=1)(asked(rule, state), theta, phi)
    assert float(cut.grad["c"]) == pytest.approx(0.6)
    assert cut.scale == pytest.approx(0.2)
    same = vfunc.Unrolled(3, checkpoint_every=2)(asked(rule, state), theta, phi)
    assert torch.equal(same.grad["c"], estimate.grad["c"])


@pytest.mark.parametrize("eta", [0.1, 0.3, 1 / 3, 1e-3, 7.3e-5])
@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_without_a_schedule_the_scale_is_k_eta_to_the_last_bit(eta, steps):
    assert vfunc.UpdateRule(vfunc.SGD(eta)).eta_over(0, steps) == steps * eta


def test_a_function_gives_factors_of_the_next_step():
    parameters, optimizer = live_one()
    rule, _ = from_optimizer(optimizer, parameters, schedule=lambda k: 1 / (1 + k))
    assert [rule.at(k).learning_rate("a") for k in range(3)] == [0.1, 0.05, 0.1 * (1 / 3)]
    assert rule.at(1).learning_rate("b") == 0.01
    assert rule.at(2).eta == 0.1 * (1 / 3)
    for wrong, message in (
        (lambda k: -1.0, r"schedule\(1\) is -1.0: it has to be a factor"),
        (lambda k: math.inf, r"schedule\(1\) is inf"),
    ):
        with pytest.raises(vfunc.UserError, match=message):
            from_optimizer(optimizer, parameters, schedule=wrong)[0].at(1)
    for group in optimizer.param_groups:
        group["lr"] = 0.0
    with pytest.raises(vfunc.UserError, match="the next step's size is 0, and no multiple"):
        from_optimizer(optimizer, parameters, schedule=lambda k: 1.0)[0].at(1)


def test_a_first_step_of_size_zero_is_followed_by_the_scheduler_s():
    """The first step of most warm-ups."""
    p = {"a": torch.ones(1, requires_grad=True)}
    optimizer = torch.optim.AdamW(p.values(), lr=0.1)
    scheduler = lr_scheduler.LambdaLR(optimizer, lambda k: k / 10)
    rule, _ = from_optimizer(optimizer, p, schedule=scheduler)
    assert [rule.at(k).eta for k in range(3)] == [0.0, 0.1 * (1 / 10), 0.1 * (2 / 10)]


def test_step_sizes_that_are_tensors_are_copied():
    p = {"a": torch.ones(1, requires_grad=True)}
    optimizer = torch.optim.Adam(p.values(), lr=torch.tensor(0.1), foreach=False)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    rule, _ = from_optimizer(optimizer, p, schedule=scheduler)
    assert rule.at(2).eta == pytest.approx(0.025)
    assert float(optimizer.param_groups[0]["lr"]) == pytest.approx(0.1)


def test_what_a_scheduler_s_method_belongs_to_is_not_copied():
    """A trainer that holds the learner, and gives its own method to the scheduler."""

    class Trainer:
        def __deepcopy__(self, memo):
            raise AssertionError("copied")

        def factor(self, k):
            return 1 / (1 + k)

    parameters, optimizer = live_one()
    inner = lr_scheduler.LambdaLR(optimizer, Trainer().factor)
    for scheduler in (inner, lr_scheduler.ChainedScheduler([inner], optimizer)):
        rule, _ = from_optimizer(optimizer, parameters, schedule=scheduler)
        assert [rule.at(k).eta for k in range(3)] == [0.1, 0.05, 0.1 * (1 / 3)]


@dataclass
class Closed:
    """What cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("not to be copied")

    def __call__(self, k):
        return 1.0


class Own:
    """A rule whose step size nobody can change."""

    lr = 0.1

    def step(self, p, state, g):
        return p - 0.1 * g, state

    def vjp(self, p, state, g, p_bar, buffers_bar):
        return p_bar, {}, -0.1 * p_bar


def test_schedules_that_say_nothing_are_refused():
    parameters, optimizer = live_one()
    other = live_one()[1]
    for schedule, message in (
        (lr_scheduler.ReduceLROnPlateau(optimizer), "waits for a metric"),
        (lr_scheduler.StepLR(other, 2), "the schedule, a StepLR, is that of another optimizer"),
        (lr_scheduler.LambdaLR(optimizer, Closed()), "cannot be copied .*not to be copied"),
        (0.5, "schedule takes a scheduler of torch.optim.lr_scheduler, or .* not a float"),
    ):
        with pytest.raises(vfunc.UserError, match=message):
            from_optimizer(optimizer, parameters, schedule=schedule)
    from vfunc.simulate.schedule import later_by_factors

    rule = vfunc.UpdateRule(Own(), later=later_by_factors(Own(), lambda k: 0.5))
    with pytest.raises(vfunc.UserError, match="Own is no dataclass with a field `lr`"):
        rule.at(1)
