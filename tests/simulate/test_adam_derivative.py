"""Adam's derivative where automatic differentiation fails: a fresh state, tiny and zero gradients."""

from __future__ import annotations

import mpmath
import pytest
import torch

import vfunc
from vfunc.simulate import Adam, AdamW, TensorState, UpdateRule

pytestmark = pytest.mark.usefixtures("float64")


def exact(rule, t, m0, v0, g):
    """d (p+) / d g in fifty digits."""
    with mpmath.workdps(50):
        b1, b2 = map(mpmath.mpf, rule.betas)
        m0, v0 = mpmath.mpf(m0), mpmath.mpf(v0)

        def step(g):
            m, v = b1 * m0 + (1 - b1) * g, b2 * v0 + (1 - b2) * g**2
            return -rule.lr * m / (1 - b1**t) / (mpmath.sqrt(v / (1 - b2**t)) + rule.eps)

        g = mpmath.mpf(g)
        return float(mpmath.diff(step, g, h=abs(g) * mpmath.mpf("1e-20")))


def derivative(rule, state, g):
    """The package's."""
    g = torch.tensor([g])
    return float(rule.vjp(torch.ones(1), state, g, torch.ones(1), {})[2])


@pytest.mark.parametrize("g", [1e-12, 1e-9, 1e-8, 3e-8, 1e-4, -0.02, 1.0, -30.0])
@pytest.mark.parametrize("make", [Adam, AdamW])
def test_fresh_state(make, g):
    """lr eps / (|g| + eps)^2: at g = 1 it is the 1e-8 th part of the terms that cancel."""
    rule = make(1e-3)
    want = exact(AdamW(1e-3), 1, 0.0, 0.0, g) if make is AdamW else exact(rule, 1, 0.0, 0.0, g)
    assert derivative(rule, TensorState(), g) == pytest.approx(want, rel=1e-7)
    assert want == pytest.approx(-1e-3 * 1e-8 / (abs(g) + 1e-8) ** 2, rel=1e-9)


@pytest.mark.parametrize("g", [1e-9, 1e-4, 0.3])
@pytest.mark.parametrize(("m0", "v0"), [(0.1, 0.02), (-1e-5, 1e-9), (0.0, 1e-6)])
def test_later_state(m0, v0, g):
    rule = Adam(1e-3)
    state = TensorState(4, {"exp_avg": torch.tensor([m0]), "exp_avg_sq": torch.tensor([v0])})
    assert derivative(rule, state, g) == pytest.approx(exact(rule, 5, m0, v0, g), rel=1e-9)


@pytest.mark.parametrize("taken", [0, 3])
def test_zero_gradient_and_zero_moments_are_finite(taken):
    rule = Adam(1e-3)
    zero = torch.zeros(1)
    state = TensorState(taken, {"exp_avg": zero, "exp_avg_sq": zero} if taken else {})
    bars = {"exp_avg": torch.ones(1), "exp_avg_sq": torch.ones(1)}
    p_bar, buffers, g_bar = rule.vjp(zero, state, zero, torch.ones(1), bars)
    for x in (p_bar, *buffers.values(), g_bar):
        assert torch.isfinite(x).all()
    assert derivative(rule, state, 0.0) == pytest.approx(
        -1e-3 * 0.1 / (1 - 0.9 ** (taken + 1)) / 1e-8, rel=1e-9
    )


def one_step(rule, g, dtype):
    """(value, gradient) of Unrolled(1) at a fresh state: L_pre = phi theta, L_down = theta."""
    problem = vfunc.ValueProblem(
        construct=lambda phi, batch: {"c": phi["c"]},
        pretrain_loss=lambda theta, task: (theta["x"] * task["c"]).sum(),
        feedback_loss=lambda theta: theta["x"].sum(),
        batches=(None,),
        rule=UpdateRule(rule),
    )
    theta, phi = {"x": torch.zeros(1, dtype=dtype)}, {"c": torch.tensor([g], dtype=dtype)}
    estimate = vfunc.Unrolled(1)(problem, theta, phi)
    assert estimate.value.dtype == dtype
    assert estimate.grad["c"].dtype == dtype
    return float(estimate.value), float(estimate.grad["c"])


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float64, 1e-12), (torch.float32, 4e-6)], ids=["64", "32"]
)
@pytest.mark.parametrize("default", [torch.float64, torch.float32], ids=["in 64", "in 32"])
@pytest.mark.parametrize("g", [1e-9, 1e-8, -3e-7, 1e-4, 0.5, -20.0])
@pytest.mark.parametrize("make", [Adam, AdamW])
def test_one_step_from_a_fresh_state_at_the_usual_epsilon(make, g, dtype, default, precision):
    """L_down falls by lr g / (|g| + eps); the slope in g is lr eps / (|g| + eps)^2.

    Whatever the default dtype is: a bias correction computed in it would show in float64.
    """
    torch.set_default_dtype(default)
    rule = make(1e-3)
    value, slope = one_step(rule, g, dtype)
    with mpmath.workdps(50):
        size, eps = abs(mpmath.mpf(float(torch.tensor(g, dtype=dtype)))), mpmath.mpf(rule.eps)
        fallen = rule.lr * size / (size + eps) * (1 if g > 0 else -1)
        by_g = rule.lr * eps / (size + eps) ** 2
    assert value == pytest.approx(float(fallen), rel=precision)
    assert slope == pytest.approx(float(by_g), rel=precision)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["64", "32"])
@pytest.mark.parametrize("make", [Adam, AdamW])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_unit_without_gradient_stays_finite(steps, make, dtype):
    """A relu that is off: its gradient is exactly zero at every step, its moments stay zero."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(5, 3, generator=draw, dtype=dtype).abs()
    theta = {
        "w": torch.tensor([[0.3, 0.2, 0.5], [-1.0, -1.0, -1.0]], dtype=dtype),
        "out": torch.randn(2, generator=draw, dtype=dtype),
    }

    def predicted(theta):
        return torch.relu(x @ theta["w"].T) @ theta["out"]

    problem = vfunc.ValueProblem(
        construct=lambda phi, batch: {"y": x @ phi["y"]},
        pretrain_loss=lambda theta, task: ((predicted(theta) - task["y"]) ** 2).mean(),
        feedback_loss=lambda theta: (predicted(theta) ** 2).mean(),
        batches=(None,) * steps,
        rule=UpdateRule(make(1e-2)),
    )
    phi = {"y": torch.ones(3, dtype=dtype)}
    g = vfunc.pretrain_gradient(problem, theta, problem.construct(phi, None))
    assert not g["w"][1].any()
    assert not g["out"][1].any()
    for engine in ("reverse", "forward"):
        estimate = vfunc.Unrolled(steps, engine=engine)(problem, theta, phi)
        assert torch.isfinite(estimate.value)
        assert torch.isfinite(estimate.grad["y"]).all()
        assert estimate.grad["y"].any()
        alive = {"w": theta["w"][:1], "out": theta["out"][:1]}
        without = vfunc.Unrolled(steps, engine=engine)(problem, alive, phi)
        torch.testing.assert_close(estimate.grad["y"], without.grad["y"])
