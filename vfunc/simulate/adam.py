"""Simulates `torch.optim.Adam` and `AdamW`, one tensor at a time.

The derivative is written in closed form. By automatic differentiation it is NaN at v = 0, and in
a fresh state it cancels catastrophically: g / (|g| + eps) has derivative eps / (|g| + eps)^2, the
difference of two numbers near 1 / |g|. No epsilon is put inside the root to hide that, so that
the step stays torch.optim's own.

That holds for the derivative of one step. Where the gradients of several steps from a fresh state
are next to equal, the step is still nearly a sign, and the terms that cancel stand in different
steps' derivatives: an adjoint adds them up in its dtype, and what is left is right to that dtype's
rounding of lr / |g|, not of lr eps / g^2. Over four steps of a constant gradient float32 returns
-1.7e-10 for 1.6e-10; float64 has the digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class Adam:
    """`torch.optim.Adam`, and `AdamW` with `decoupled=True` (see `AdamW`)."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: p - (lr / c1) m / (sqrt(v / c2) + eps), c_i = 1 - beta_i^t."""
        decay, g = self._decay(p, g)
        m, v, root, c1 = self._moments(state, g)
        after = decay * p - (self.lr / c1) * m / (root + self.eps)
        return after, TensorState(state.step + 1, {"exp_avg": m, "exp_avg_sq": v})

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`.

        With s = sqrt(v / c2), the derivative of u = m / (s + eps) in g is
        [(1 - b1) eps + ((1 - b1) b2 v0 - b1 (1 - b2) m0 g) / (c2 s)] / (s + eps)^2:
        the terms that cancel within a step from a fresh state have been cancelled on paper. At
        s = 0 the quotients with s below take their value at g = 0 along zero moments, which is
        finite.
        """
        decay, g = self._decay(p, g)
        m, _, root, c1 = self._moments(state, g)
        b1, b2 = self.betas
        c2 = 1 - b2 ** (state.step + 1)
        m0, v0 = self._buffers(state, g)
        positive = root > 0
        inverse_root = torch.where(positive, root, 1.0).reciprocal() * positive
        denominator = root + self.eps
        u_bar = -(self.lr / c1) * p_bar
        numerator = (1 - b1) * self.eps + (
            (1 - b1) * b2 * v0 - b1 * (1 - b2) * m0 * g
        ) * inverse_root / c2
        m_bar = buffers_bar.get("exp_avg", torch.zeros_like(p_bar))
        v_bar = buffers_bar.get("exp_avg_sq", torch.zeros_like(p_bar))
        u_by_v = -m * inverse_root / (2 * c2 * denominator**2)
        g_bar = u_bar * numerator / denominator**2 + (1 - b1) * m_bar + 2 * (1 - b2) * g * v_bar
        before: Buffers = {}
        if state.buffers:
            before["exp_avg"] = b1 * (m_bar + u_bar / denominator)
            before["exp_avg_sq"] = b2 * (v_bar + u_bar * u_by_v)
        coupled = 0.0 if self.decoupled else self.weight_decay
        return decay * p_bar + coupled * g_bar, before, g_bar

    def _decay(self, p: Tensor, g: Tensor) -> tuple[float, Tensor]:
        if self.decoupled:
            return 1 - self.lr * self.weight_decay, g
        return 1.0, g + self.weight_decay * p if self.weight_decay else g

    def _buffers(self, state: TensorState, g: Tensor) -> tuple[Tensor, Tensor]:
        zero = torch.zeros_like(g)
        return state.buffers.get("exp_avg", zero), state.buffers.get("exp_avg_sq", zero)

    def _moments(self, state: TensorState, g: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        b1, b2 = self.betas
        m0, v0 = self._buffers(state, g)
        m = b1 * m0 + (1 - b1) * g
        v = b2 * v0 + (1 - b2) * g * g
        t = state.step + 1
        return m, v, v.sqrt() / math.sqrt(1 - b2**t), 1 - b1**t


def AdamW(
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
) -> Adam:
    """`torch.optim.AdamW`: Adam with decoupled weight decay."""
    return Adam(lr, betas, eps, weight_decay, decoupled=True)
