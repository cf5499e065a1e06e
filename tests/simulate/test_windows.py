"""Accumulation windows of simulated steps: whole ones, wherever there are the batches for them."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reference.unrolled import unrolled
from torch import nn

import vfunc
from vfunc.estimators.trajectory import Point, Simulation, simulate
from vfunc.simulate import Clip, UpdateRule, from_optimizer

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)
SMALL = st.sampled_from(cases.SMALL)


class Experts(nn.Module):
    """A batch reaches one of two experts, so that a window's micro-batches reach different ones."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(3, 4)
        self.experts = nn.ModuleList([nn.Linear(4, 3), nn.Linear(4, 3)])

    def forward(self, x):
        return self.experts[int(x[0, 0] > 0)](torch.tanh(self.body(x)))


LIVE = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.03, eps=1e-3),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
}


class Training:
    """A learner in training, with accumulation, clipping and a schedule, and what it is asked."""

    def __init__(self, name, shares, seed=0):
        self.module = cases.seeded(Experts, seed)
        self.optimizer = LIVE[name](self.module.parameters())
        self.schedule = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.7)
        self.learner, self.shares = vfunc.functional(self.module), shares
        draw = measures.generator(seed)
        self.batches = [measures.normal(draw, 5, 3) for _ in range(24)]
        self.feedback = measures.normal(draw, 6, 3)
        self.phi = {"weight": 1 + 0.3 * measures.normal(draw, 3)}
        self.taken = 0

    def construct(self, phi, x):
        return {"x": x, "weight": phi["weight"]}

    def pretrain_loss(self, theta, task):
        return (task["weight"] * (self.learner(theta, task["x"]) - task["x"]) ** 2).mean()

    def feedback_loss(self, theta):
        return (self.learner(theta, self.feedback)[:, :1] - self.feedback[:, :1]).pow(2).mean()

    def micro_batch(self):
        """As a training loop does it; steps where the window is full."""
        window = self.shares[self.taken % len(self.shares)]
        x = self.batches[self.taken]
        task = self.construct(self.phi, x)
        out = self.module(x)
        (window * (task["weight"] * (out - x) ** 2).mean()).backward()
        self.taken += 1
        if self.taken % len(self.shares) == 0:
            torch.nn.utils.clip_grad_norm_(self.module.parameters(), 0.2)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.schedule.step()

    def problem(self, **how):
        """The question of this moment."""
        at = self.taken % len(self.shares)
        grads = {n: p.grad for n, p in self.learner.live.items()}
        rule, state = from_optimizer(
            self.optimizer,
            self.learner.live,
            clip=Clip(0.2),
            accumulated=grads if at else None,
            schedule=self.schedule,
            **how,
        )
        rest = tuple(self.batches[self.taken :])
        return vfunc.ValueProblem(
            self.construct, self.pretrain_loss, self.feedback_loss, rest, rule, state
        )


def simulated(problem, theta, phi, steps):
    """theta after the simulated steps, as `Unrolled` takes them."""
    taken = problem.rule.taken(steps, len(problem.batches))
    return simulate(Simulation(problem, phi, taken), Point(theta, problem.state), steps)[1].theta


@pytest.mark.parametrize("name", LIVE)
@pytest.mark.parametrize("at", [0, 1, 3])
@pytest.mark.parametrize("shares", [(0.25,) * 4, (0.4, 0.1, 0.2, 0.3)], ids=["equal", "by tokens"])
def test_a_lookahead_is_the_live_steps_with_their_windows(name, at, shares):
    """From the middle of a window, or its start; the learner's parameters after each step."""
    training = Training(name, shares)
    for _ in range(4 + at):  # a step, so that there is a state
        training.micro_batch()
    how = {"windows": (shares[at:], shares, shares)}
    if shares[0] == 0.25 and at in (0, 3):  # no need to say
        how = {"weight": 0.25, "closes_window": at == 3}
    problem, start = training.problem(**how), training.learner.theta
    start = {n: x.clone() for n, x in start.items()}
    kept = {n: p.grad.clone() for n, p in training.learner.live.items() if p.grad is not None}
    problem = replace(
        problem,
        rule=replace(problem.rule, accumulated=kept if at else None),
        state={
            n: replace(s, buffers={k: b.clone() for k, b in s.buffers.items()})
            for n, s in problem.state.items()
        },
    )
    estimates, live = [], []
    for steps in (1, 2, 3):
        estimates.append(simulated(problem, start, training.phi, steps))
        notes = problem.rule.notes(steps, len(problem.batches))
        assert notes["window_incomplete"] is notes["later_steps_single"] is False
    for steps in (1, 2, 3):
        for _ in range(4 - at if steps == 1 else 4):
            training.micro_batch()
        live.append({n: x.clone() for n, x in training.learner.theta.items()})
    for predicted, real in zip(estimates, live, strict=True):
        assert measures.apart(predicted, real) <= 1e-13
    assert measures.apart(estimates[0], start) > 1e-4


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov", "adamw", "clip adamw"])
@settings(max_examples=5)
@given(seed=SEEDS, case=SMALL, steps=st.integers(1, 3), data=st.data())
def test_the_adjoint_is_the_autograd_loops(optimizer, seed, case, steps, data):
    share = st.floats(0.1, 0.9)
    windows = data.draw(
        st.lists(st.lists(share, min_size=1, max_size=3), min_size=steps, max_size=steps)
    )
    first = data.draw(st.integers(0, steps - 1))
    every = data.draw(st.integers(1, steps - first))
    made = cases.situation(case, seed, optimizer)
    plain = replace(made.optimizer, weight=windows[0][0])
    rule = replace(
        made.problem.rule,
        weight=windows[0][0],
        closes_window=len(windows[0]) == 1,
        windows=tuple(map(tuple, windows)),
    )
    problem = replace(made.problem, rule=rule, batches=made.problem.batches * 5)
    ask = vfunc.Unrolled(steps, truncate=steps - first, checkpoint_every=every)
    estimate = ask(problem, made.theta, made.phi)
    value, grad = unrolled(problem, made.theta, made.phi, plain, steps, first, windows)
    assert float(estimate.value) == pytest.approx(value, rel=1e-9, abs=1e-13)
    assert measures.apart(estimate.grad, grad) <= 1e-9
    again = vfunc.Unrolled(steps, truncate=steps - first)(problem, made.theta, made.phi)
    assert all(torch.equal(again.grad[n], estimate.grad[n]) for n in again.grad)
    notes = estimate.diagnostics
    assert notes["window_incomplete"] is notes["later_steps_single"] is False


@pytest.mark.parametrize("engine", ["reverse", "forward", "auto"])
def test_the_gradient_is_that_of_differences(engine):
    """Every engine; batches reach different parameters."""
    training = Training("adamw", (0.5, 0.5))
    for _ in range(2):
        training.micro_batch()
    problem, theta = training.problem(weight=0.5, closes_window=False), training.learner.theta
    ask = vfunc.Unrolled(3, engine=engine)
    estimate = ask(problem, theta, training.phi)
    way = {"weight": torch.tensor([0.5, -0.2, 0.8])}

    def value(by):
        phi = {"weight": training.phi["weight"] + by * way["weight"]}
        before = training.feedback_loss(theta)
        return float(before - training.feedback_loss(simulated(problem, theta, phi, 3)))

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    assert float(vfunc.trees.dot(way, estimate.grad)) == pytest.approx(slope, rel=1e-6)
    assert estimate.value.item() == pytest.approx(value(0.0), rel=1e-12)
    vfunc.certify(problem, theta, training.phi, ask, quiet=True)


@pytest.mark.parametrize(
    ("options", "batches", "shares", "said"),
    [
        # weight 1/3; (steps, closes, accumulated)
        ((2, True, True), 4, ((1 / 3,), (1 / 3,) * 3), (False, False)),
        ((2, True, True), 3, ((1 / 3,), (1.0,)), (False, True)),
        ((3, True, True), 7, ((1 / 3,), (1 / 3,) * 3, (1 / 3,) * 3), (False, False)),
        ((3, True, True), 6, ((1 / 3,), (1.0,), (1.0,)), (False, True)),
        ((2, False, False), 6, ((1 / 3,) * 3, (1 / 3,) * 3), (False, False)),
        ((2, False, False), 5, ((1 / 3,), (1 / 3,) * 3), (True, False)),
        ((2, False, False), 2, ((1 / 3,), (1.0,)), (True, True)),
        ((1, False, False), 3, ((1 / 3,) * 3,), (False, False)),
        ((1, False, False), 2, ((1 / 3,),), (True, False)),
        ((2, False, True), 9, ((1 / 3,), (1 / 3,) * 3), (True, False)),  # where in its window?
    ],
)
def test_which_batches_a_step_takes_and_what_is_said(options, batches, shares, said):
    steps, closes, held = options
    accumulated = {"a": torch.ones(2)} if held else None
    rule = UpdateRule(vfunc.SGD(0.1), None, accumulated, 1 / 3, closes)
    taken = rule.taken(steps, batches)
    assert taken.shares == shares
    notes = rule.notes(steps, batches)
    assert (notes["window_incomplete"], notes["later_steps_single"]) == said


def test_shares_that_are_known_for_fewer_steps_and_shares_that_are_no_part_of_equal_windows():
    known = UpdateRule(vfunc.SGD(0.1), weight=0.5, windows=((0.5,), (0.4, 0.6)))
    assert known.taken(2, 3).shares == ((0.5,), (0.4, 0.6))
    assert known.taken(3, 20).shares == ((0.5,), (1.0,), (1.0,))
    assert known.notes(3, 20)["later_steps_single"] is True
    uneven = UpdateRule(vfunc.SGD(0.1), weight=0.4)
    assert uneven.taken(2, 20).shares == ((0.4,), (1.0,))
    assert uneven.notes(2, 20)["later_steps_single"] is True
    assert UpdateRule(vfunc.SGD(0.1)).notes(5, 9)["later_steps_single"] is False


@pytest.mark.parametrize(
    ("windows", "message"),
    [
        (0.5, "windows takes the shares of each step's micro-batches, not 0.5"),
        ((0.5, 0.5), "windows takes the shares of each step's"),
        ((), "one micro-batch or more a step"),
        (((0.5,), ()), "one micro-batch or more a step"),
        (((0.5, 0.0),), "shares above 0"),
        (((0.5, "x"),), "shares above 0"),
        (((0.5, float("nan")),), "shares above 0"),
    ],
)
def test_windows_that_are_none_are_refused(windows, message):
    parameters = {"a": torch.ones(2, requires_grad=True)}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    with pytest.raises(vfunc.UserError, match=message):
        from_optimizer(optimizer, parameters, windows=windows)


def test_windows_and_a_weight_that_differ_are_refused():
    parameters = {"a": torch.ones(2, requires_grad=True)}
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    with pytest.raises(vfunc.UserError, match=r"weight is 0.25, and windows says 0.5"):
        from_optimizer(optimizer, parameters, weight=0.25, windows=((0.5, 0.5),))
    with pytest.raises(vfunc.UserError, match=r"windows begins with \(0.5, 0.5\)"):
        UpdateRule(vfunc.SGD(0.1), weight=0.5, windows=((0.5, 0.5),))


@pytest.mark.parametrize(
    ("more", "gradients", "second"),
    [({}, 7, 7), ({"truncate": 2}, 7, 6), ({"checkpoint_every": 1}, 7, 7),
     ({"checkpoint_every": 2}, 7 + 4, 7)],
)  # fmt: skip
def test_passes_are_a_micro_batchs_each(more, gradients, second):
    """A window of one, then two of three: of two steps made again, that is four."""
    made = cases.situation("mlp", 0)
    rule = replace(made.problem.rule, weight=1 / 3)
    problem = replace(made.problem, rule=rule, batches=made.problem.batches * 5)
    notes = vfunc.Unrolled(3, engine="reverse", **more)(problem, made.theta, made.phi).diagnostics
    spent = notes["forwards"], notes["backwards"], notes["tangents"]
    assert spent == (2 + gradients + second, 1 + gradients + 2 * second, 0)


def test_an_optimizer_in_plain_numbers_takes_them_too():
    """The oracle of other tests has whole windows where there are the batches."""
    made = cases.situation("mlp", 3, "accumulate")
    few = vfunc.Unrolled(2)(made.problem, made.theta, made.phi)
    longer = replace(made.problem, batches=made.problem.batches * 2)
    many = vfunc.Unrolled(2)(longer, made.theta, made.phi)
    assert few.diagnostics["later_steps_single"] is True
    assert many.diagnostics["later_steps_single"] is False
    for problem, estimate in ((made.problem, few), (longer, many)):
        value, grad = unrolled(problem, made.theta, made.phi, made.optimizer, 2)
        assert estimate.value.item() == pytest.approx(value, rel=1e-9)
        assert measures.apart(estimate.grad, grad) <= 1e-9
