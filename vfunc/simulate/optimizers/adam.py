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
    amsgrad: bool = False
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: p - (lr / c1) m / (sqrt(v / c2) + eps), c_i = 1 - beta_i^t.

        With amsgrad v is the largest so far.
        """
        decay, g = self._decay(p, g)
        m, v, largest, root, c1 = self._moments(state, g)
        after = decay * p - (self.lr / c1) * m / (root + self.eps)
        buffers = {"exp_avg": m, "exp_avg_sq": v}
        if self.amsgrad:
            buffers["max_exp_avg_sq"] = largest
        return after, TensorState(state.step + 1, buffers)

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`.

        With s = sqrt(v / c2), the derivative of u = m / (s + eps) in g is
        [(1 - b1) eps + ((1 - b1) b2 v0 - b1 (1 - b2) m0 g) / (c2 s)] / (s + eps)^2:
        the terms that cancel within a step from a fresh state have been cancelled on paper. At
        s = 0 the quotients with s below take their value at g = 0 along zero moments, which is
        finite. Where amsgrad's root is an earlier one, it does not depend on g.
        """
        decay, g = self._decay(p, g)
        m, v, largest, root, c1 = self._moments(state, g)
        b1, b2 = self.betas
        c2 = 1 - b2 ** (state.step + 1)
        m0, v0, _ = self._buffers(state, g)
        positive = root > 0
        inverse_root = torch.where(positive, root, 1.0).reciprocal() * positive
        denominator = root + self.eps
        u_bar = -(self.lr / c1) * p_bar
        numerator = (1 - b1) * self.eps + (
            (1 - b1) * b2 * v0 - b1 * (1 - b2) * m0 * g
        ) * inverse_root / c2
        zero = torch.zeros_like(p_bar)
        m_bar, v_bar = buffers_bar.get("exp_avg", zero), buffers_bar.get("exp_avg_sq", zero)
        u_by_v = -m * inverse_root / (2 * c2 * denominator**2)
        by_root = u_bar * u_by_v
        before: Buffers = {}
        if self.amsgrad:
            largest_bar = buffers_bar.get("max_exp_avg_sq", zero)
            now = v >= largest  # the largest is this step's own
            numerator = torch.where(now, numerator, (1 - b1) * denominator)
            before["max_exp_avg_sq"] = torch.where(now, 0.0, largest_bar + by_root)
            v_bar = v_bar + torch.where(now, largest_bar, 0.0)
            by_root = torch.where(now, by_root, 0.0)
        g_bar = u_bar * numerator / denominator**2 + (1 - b1) * m_bar + 2 * (1 - b2) * g * v_bar
        before["exp_avg"] = b1 * (m_bar + u_bar / denominator)
        before["exp_avg_sq"] = b2 * (v_bar + by_root)
        coupled = 0.0 if self.decoupled else self.weight_decay
        p_before = decay * p_bar + coupled * g_bar
        before = {name: x for name, x in before.items() if name in state.buffers}
        return p_before, before, -g_bar if self.maximize else g_bar

    def _decay(self, p: Tensor, g: Tensor) -> tuple[float, Tensor]:
        g = -g if self.maximize else g
        if self.decoupled:
            return 1 - self.lr * self.weight_decay, g
        return 1.0, g + self.weight_decay * p if self.weight_decay else g

    def _buffers(self, state: TensorState, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        zero, names = torch.zeros_like(g), ("exp_avg", "exp_avg_sq", "max_exp_avg_sq")
        m, v, largest = (state.buffers.get(name, zero) for name in names)
        return m, v, largest

    def _moments(
        self, state: TensorState, g: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, float]:
        """(m, v, the v of the root, the root, c1)."""
        b1, b2 = self.betas
        m0, v0, largest = self._buffers(state, g)
        m = b1 * m0 + (1 - b1) * g
        v = b2 * v0 + (1 - b2) * g * g
        largest = torch.maximum(largest, v) if self.amsgrad else v
        t = state.step + 1
        return m, v, largest, largest.sqrt() / math.sqrt(1 - b2**t), 1 - b1**t


def AdamW(
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 1e-2,
    *,
    amsgrad: bool = False,
    maximize: bool = False,
) -> Adam:
    """`torch.optim.AdamW`: Adam with decoupled weight decay."""
    return Adam(lr, betas, eps, weight_decay, True, amsgrad, maximize)
