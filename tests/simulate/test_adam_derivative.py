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


PULLS = (0.7, -1.3, 0.4)


def looked_ahead(rule, steps, start, c):
    """L_down(theta_0) - L_down(theta_K) by the formulas of torch.optim.Adam and AdamW.

    For whatever kind of number c is. L_pre of batch k is (theta - pull_k c)^2 / 2, L_down theta^3.
    """
    b1, b2 = (mpmath.mpf(b) for b in rule.betas)
    theta, m, v = mpmath.mpf(start), mpmath.mpf(0), mpmath.mpf(0)
    for t in range(1, steps + 1):
        g = theta - mpmath.mpf(PULLS[t - 1]) * c
        if rule.decoupled:
            theta = theta - mpmath.mpf(rule.lr) * rule.weight_decay * theta
        else:
            g = g + rule.weight_decay * theta
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        root = mpmath.sqrt(v / (1 - b2**t))
        theta = theta - rule.lr * (m / (1 - b1**t)) / (root + mpmath.mpf(rule.eps))
    return mpmath.mpf(start) ** 3 - theta**3


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize(
    "rule",
    [Adam(0.05), Adam(0.05, weight_decay=0.1), AdamW(0.05), AdamW(0.05, (0.5, 0.9))],
    ids=str,
)
@pytest.mark.parametrize(("start", "c"), [(0.8, 0.5), (-0.3, 2.0), (1e-3, 1e-7), (0.5, -1.2)])
def test_several_steps_from_a_fresh_state_at_the_usual_epsilon(start, c, rule, steps):
    """Against fifty digits; finite differences in float64 would see a sign."""
    problem = vfunc.ValueProblem(
        construct=lambda phi, pull: {"y": pull * phi["c"]},
        pretrain_loss=lambda theta, task: ((theta["x"] - task["y"]) ** 2).sum() / 2,
        feedback_loss=lambda theta: (theta["x"] ** 3).sum(),
        batches=PULLS,
        rule=UpdateRule(rule),
    )
    theta, phi = {"x": torch.tensor([start])}, {"c": torch.tensor([c])}
    estimate = vfunc.Unrolled(steps)(problem, theta, phi)
    with mpmath.workdps(50):
        value = looked_ahead(rule, steps, start, mpmath.mpf(c))
        by_c = mpmath.diff(
            lambda x: looked_ahead(rule, steps, start, x), mpmath.mpf(c), h=mpmath.mpf("1e-25")
        )
    assert float(estimate.value) == pytest.approx(float(value), rel=1e-12)
    assert float(estimate.grad["c"]) == pytest.approx(float(by_c), rel=1e-12)


def test_a_constant_gradient_over_several_steps_takes_float64():
    """What the module's docstring says of float32: each step's terms cancel against the others'."""
    slopes = {}
    for dtype in (torch.float64, torch.float32):
        problem = vfunc.ValueProblem(
            construct=lambda phi, batch: {"c": phi["c"]},
            pretrain_loss=lambda theta, task: (theta["x"] * task["c"]).sum(),
            feedback_loss=lambda theta: theta["x"].sum(),
            batches=(None,) * 4,
            rule=UpdateRule(Adam(1e-3)),
        )
        theta, phi = {"x": torch.zeros(1, dtype=dtype)}, {"c": torch.full((1,), 0.5, dtype=dtype)}
        slopes[dtype] = float(vfunc.Unrolled(4)(problem, theta, phi).grad["c"])
    exact = 4e-3 * 1e-8 / (0.5 + 1e-8) ** 2
    assert slopes[torch.float64] == pytest.approx(exact, rel=1e-4)
    # to the rounding of lr / |g| = 2e-3, which is more than the slope itself
    assert abs(slopes[torch.float32] - exact) < 10 * torch.finfo(torch.float32).eps * 2e-3
    assert abs(slopes[torch.float32] - exact) > exact


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
