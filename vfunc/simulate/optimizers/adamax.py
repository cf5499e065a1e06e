"""Simulates `torch.optim.Adamax`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.pieces import Seen, cotangents, held, kept, lerp
from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class Adamax:
    """`torch.optim.Adamax`: Adam with a decaying maximum in place of the second moment's root."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: p - (lr / c1) m / n, n = max(b2 n0, |g| + eps)."""
        g = self._seen(p, g)
        m, _, norm, c1 = self._moments(state, g)
        after = torch.addcdiv(p, m, norm, value=-self.lr / c1)
        return after, TensorState(state.step + 1, {"exp_avg": m, "exp_inf": norm})

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`.

        Where n is this step's, the derivative of m / n in g is
        [(1 - b1) eps - b1 m0 sign(g)] / n^2: what cancels in a fresh state has been cancelled.
        """
        seen = self._seen
        g = seen(p, g)
        b1, b2 = self.betas
        m, now, norm, c1 = self._moments(state, g)
        (m0,) = held(state, g, "exp_avg")
        m_bar, norm_bar = cotangents(buffers_bar, p_bar, "exp_avg", "exp_inf")
        u_bar = -(self.lr / c1) * p_bar
        numerator = torch.where(now, (1 - b1) * self.eps - b1 * m0 * g.sign(), (1 - b1) * norm)
        g_bar = u_bar * numerator / norm**2 + (1 - b1) * m_bar
        g_bar = g_bar + torch.where(now, norm_bar, 0.0) * g.sign()
        before = {
            "exp_avg": b1 * (m_bar + u_bar / norm),
            "exp_inf": b2 * torch.where(now, 0.0, norm_bar - u_bar * m / norm**2),
        }
        p_before, g_bar = seen.pull(p_bar, g_bar)
        return p_before, kept(state, before), g_bar

    @property
    def _seen(self) -> Seen:
        return Seen(self.maximize, self.weight_decay)

    def _moments(self, state: TensorState, g: Tensor) -> tuple[Tensor, Tensor, Tensor, float]:
        """(m, whether the maximum is this step's own, the maximum, c1)."""
        b1, b2 = self.betas
        m0, norm0 = held(state, g, "exp_avg", "exp_inf")
        own, earlier = g.abs() + self.eps, b2 * norm0
        m = lerp(m0, g, 1 - b1)
        return m, own >= earlier, torch.maximum(earlier, own), 1 - b1 ** (state.step + 1)
