"""The simulated step is the live optimizer's next step; its pullback is autograd's."""

from __future__ import annotations

from dataclasses import replace

import cases
import measures
import optimizers
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import vfunc
from vfunc.simulate import Clip, from_optimizer
from vfunc.simulate.update import UpdateRule

pytestmark = pytest.mark.usefixtures("float64")

SEEDS = st.integers(0, 10_000)
RATES = st.floats(1e-4, 0.3)
SHARES = st.floats(0.0, 0.95)


@st.composite
def live_optimizers(draw):
    """A function: parameter groups -> a live optimizer, at random hyper-parameters."""
    decay = draw(st.sampled_from([0.0, 0.01, 0.3]))
    kind = draw(st.sampled_from(["sgd", "adam", "adamw"]))
    if kind == "sgd":
        momentum = draw(st.sampled_from([0.0, 0.5, 0.9]))
        nesterov = momentum > 0 and draw(st.booleans())
        dampening = 0.0 if nesterov else draw(st.sampled_from([0.0, 0.4]))
        return lambda groups: torch.optim.SGD(
            groups,
            momentum=momentum,
            nesterov=nesterov,
            dampening=dampening,
            weight_decay=decay,
        )
    betas = draw(st.tuples(SHARES, st.floats(0.5, 0.999)))
    eps = draw(st.sampled_from([1e-8, 1e-3]))
    make = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
    return lambda groups: make(groups, betas=betas, eps=eps, weight_decay=decay)


def live(module, make, lr):
    """Two parameter groups of different learning rates."""
    parameters = list(module.parameters())
    return make([{"params": parameters[:3], "lr": lr}, {"params": parameters[3:], "lr": 3 * lr}])


def backward(module, seed, weight=1.0):
    """Add weight * a gradient of some loss to .grad."""
    draw = measures.generator(seed)
    x = measures.normal(draw, 5, cases.FEATURES)
    y = torch.randint(0, cases.CLASSES, (5,), generator=draw)
    (weight * nn.functional.cross_entropy(module(x), y)).backward()


def grads(module, names):
    """.grad of these parameters, copied."""
    return {n: p.grad.clone() for n, p in module.named_parameters() if n in names}


@settings(max_examples=40)
@given(
    seed=SEEDS,
    lr=RATES,
    make=live_optimizers(),
    before=st.integers(0, 3),
    accumulate=st.sampled_from([1, 4]),
    max_norm=st.sampled_from([None, 0.05, 100.0]),
    subset=st.sampled_from(["all", "last:1"]),
)
def test_simulated_step_is_the_live_step(seed, lr, make, before, accumulate, max_norm, subset):
    module = cases.seeded(cases.NormedNetwork, seed)
    optimizer = live(module, make, lr)
    for k in range(before):
        optimizer.zero_grad()
        backward(module, seed + k)
        optimizer.step()
    learner = vfunc.functional(module, subset)
    optimizer.zero_grad()
    for k in range(accumulate - 1):
        backward(module, seed + 10 + k, 1 / accumulate)
    accumulated = grads(module, learner.names) if accumulate > 1 else None
    # this micro-batch's own gradient, at full weight
    twin = cases.seeded(cases.NormedNetwork, seed)
    twin.load_state_dict(module.state_dict())
    backward(twin, seed + 99)
    g = grads(twin, learner.names)
    backward(module, seed + 99, 1 / accumulate)
    rest = [p.grad for n, p in module.named_parameters() if n not in learner.names]
    clip = None
    if max_norm is not None:
        clip = Clip(
            max_norm, float(torch.stack([(x**2).sum() for x in rest]).sum().sqrt()) if rest else 0.0
        )
        torch.nn.utils.clip_grad_norm_(module.parameters(), max_norm)
    rule, state = from_optimizer(
        optimizer, learner.live, clip=clip, accumulated=accumulated, weight=1 / accumulate
    )
    theta = {n: x.clone() for n, x in learner.theta.items()}
    after, state_after = rule.step(theta, state, g)
    optimizer.step()
    assert measures.apart(after, learner.theta) <= 1e-13
    _, reread = from_optimizer(optimizer, learner.live)
    for name, tensor_state in reread.items():
        simulated = state_after[name].buffers
        assert simulated.keys() == tensor_state.buffers.keys()
        for key, buffer in tensor_state.buffers.items():
            torch.testing.assert_close(simulated[key], buffer, rtol=1e-11, atol=1e-15)
        if "exp_avg" in simulated:
            assert state_after[name].step == tensor_state.step
    assert {rule.learning_rate(n) for n in learner.names} <= {lr, 3 * lr}
    assert rule.eta == max(rule.learning_rate(n) for n in learner.names)


@pytest.mark.parametrize("optimizer", list(optimizers.OPTIMIZERS))
@given(seed=SEEDS)
def test_pullback_of_the_step_is_autograd_s(optimizer, seed):
    draw = measures.generator(seed)
    theta = {"a": measures.normal(draw, 3, 2), "b": measures.normal(draw, 4)}
    g = {n: 0.2 * measures.normal(draw, *x.shape) for n, x in theta.items()}
    made = optimizers.with_state(optimizer, theta, seed)
    rule, state = made.rule(), made.state()
    inputs = {f"theta {n}": x for n, x in theta.items()} | {f"g {n}": x for n, x in g.items()}
    inputs |= {f"{k} {n}": x for n, s in state.items() for k, x in s.buffers.items()}
    inputs = {n: x.clone().requires_grad_() for n, x in inputs.items()}
    live_state = {
        n: replace(s, buffers={k: inputs[f"{k} {n}"] for k in s.buffers}) for n, s in state.items()
    }
    after, state_after = rule.step(
        {n: inputs[f"theta {n}"] for n in theta}, live_state, {n: inputs[f"g {n}"] for n in g}
    )
    theta_bar = {n: measures.normal(draw, *x.shape) for n, x in theta.items()}
    state_bar = {
        n: {k: measures.normal(draw, *x.shape) for k, x in s.buffers.items()}
        for n, s in state_after.items()
    }
    total = sum((after[n] * theta_bar[n]).sum() for n in theta)
    total = total + sum(
        (s.buffers[k] * state_bar[n][k]).sum() for n, s in state_after.items() for k in s.buffers
    )
    want = dict(zip(inputs, torch.autograd.grad(total, list(inputs.values())), strict=True))
    by_theta, by_state, by_g = rule.vjp(theta, state, g, theta_bar, state_bar)
    got = {f"theta {n}": x for n, x in by_theta.items()} | {f"g {n}": x for n, x in by_g.items()}
    got |= {f"{k} {n}": x for n, b in by_state.items() for k, x in b.items()}
    assert measures.apart(got, want) <= 1e-10


def test_state_of_the_live_optimizer_is_read_not_changed():
    module = cases.seeded(cases.NormedNetwork, 0)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    backward(module, 0)
    optimizer.step()
    learner = vfunc.functional(module)
    rule, state = from_optimizer(optimizer, learner.live)
    before = {n: {k: b.clone() for k, b in s.buffers.items()} for n, s in state.items()}
    rule.step(learner.theta, state, learner.theta)
    rule.vjp(learner.theta, state, learner.theta, learner.theta, {})
    for name, s in state.items():
        for key, buffer in s.buffers.items():
            assert torch.equal(buffer, before[name][key])


def test_later_steps_have_a_window_of_their_own():
    made = optimizers.with_state("accumulate", {"a": torch.ones(3)}, 0)
    rule = made.rule().at(1)
    assert rule.accumulated is None
    assert rule.weight == 1.0
    assert rule.clip == made.rule().clip


@pytest.mark.parametrize(
    ("weight", "closes", "outside", "notes"),
    [
        (1.0, True, None, (False, False, False)),
        (0.25, False, None, (True, False, True)),
        (0.25, True, None, (False, False, True)),
        (1.0, True, 0.0, (False, True, False)),
        (1.0, True, 2.0, (False, True, False)),
    ],
)
def test_notes_say_where_the_step_is_an_approximation(weight, closes, outside, notes):
    rule = UpdateRule(vfunc.SGD(0.1), Clip(1.0, outside), None, weight, closes)
    names = ("window_incomplete", "clip_outside_held", "later_steps_single")
    assert tuple(rule.notes(steps=2)[name] for name in names) == notes
    assert rule.notes()["later_steps_single"] is False


class Unknown(torch.optim.Optimizer):
    """Of no class that torch.optim has."""

    def step(self, closure=None):
        """Nothing."""


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: torch.optim.LBFGS(p), "no simulated step for LBFGS: it asks for the loss"),
        (lambda p: torch.optim.SparseAdam(p), "no simulated step for SparseAdam: it steps the"),
        (lambda p: Unknown(p, {}), "no simulated step for Unknown; known: SGD, Adam, .* Muon"),
    ],
)
def test_optimizers_that_are_not_simulated_are_refused(make, message):
    module = cases.seeded(cases.NormedNetwork, 0)
    with pytest.raises(vfunc.UserError, match=message):
        from_optimizer(make(module.parameters()), vfunc.functional(module).live)


def test_parameters_that_the_optimizer_does_not_hold_are_refused():
    module = cases.seeded(cases.NormedNetwork, 0)
    optimizer = torch.optim.SGD(module.head.parameters(), lr=0.1)
    with pytest.raises(vfunc.UserError, match=r"does not hold .* such as 'embed.weight'"):
        from_optimizer(optimizer, vfunc.functional(module).live)


KINDS = {
    "sgd": lambda p: torch.optim.SGD(p, 0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, 1e-2),
    "adam, a tensor's step size": lambda p: torch.optim.Adam(p, torch.tensor(1e-2)),
    "rprop": lambda p: torch.optim.Rprop(p, 1e-2),
    "adamax": lambda p: torch.optim.Adamax(p, 1e-2),
    "nadam": lambda p: torch.optim.NAdam(p, 1e-2),
    "radam": lambda p: torch.optim.RAdam(p, 1e-2),
    "adagrad": lambda p: torch.optim.Adagrad(p, 1e-2),
    "rmsprop": lambda p: torch.optim.RMSprop(p, 1e-2, centered=True),
    "adadelta": lambda p: torch.optim.Adadelta(p),
    "adafactor": lambda p: torch.optim.Adafactor(p, 1e-2),
    "asgd": lambda p: torch.optim.ASGD(p, 1e-2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_parameters_of_another_precision_than_the_default(kind):
    """Numbers of a rule are not rounded to the default dtype on the way."""
    draw = torch.Generator().manual_seed(0)
    torch.set_default_dtype(torch.float32)
    p = torch.randn(4, 3, generator=draw, dtype=torch.float64).requires_grad_()
    optimizer = KINDS[kind]([p])
    for _ in range(7):
        assert vfunc.check_step(optimizer, {"p": p}) < 1e-4
        p.grad = torch.randn(4, 3, generator=draw, dtype=torch.float64)
        optimizer.step()
        optimizer.zero_grad()
