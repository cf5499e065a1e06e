"""Adam's derivative where automatic differentiation fails: a fresh state, tiny and zero gradients."""

from __future__ import annotations

import mpmath
import pytest
import torch

from vfunc.simulate import Adam, AdamW, TensorState

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
