"""Simulates `torch.optim.RAdam`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.pieces import Seen, cotangents, held, inverse, kept, lerp
from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class RAdam:
    """`torch.optim.RAdam`: Adam that is momentum alone until its second moment can be trusted."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    decoupled: bool = False
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: p - lr m / c1, times r sqrt(c2) / (sqrt(v) + eps) once that is sound."""
        seen = self._seen
        g = seen(p, g)
        m, v = self._moments(state, g)
        c1, rectified = self._rectified(state)
        update = (m / c1) * self.lr
        if rectified is not None:
            update = update * (rectified / (v.sqrt() + self.eps))
        return seen.decay * p - update, TensorState(state.step + 1, {"exp_avg": m, "exp_avg_sq": v})

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`; as Adam's where it is rectified, and momentum's before."""
        seen = self._seen
        g = seen(p, g)
        b1, b2 = self.betas
        m, v = self._moments(state, g)
        m0, v0 = held(state, g, "exp_avg", "exp_avg_sq")
        m_bar, v_bar = cotangents(buffers_bar, p_bar, "exp_avg", "exp_avg_sq")
        c1, rectified = self._rectified(state)
        u_bar = -(self.lr / c1) * p_bar
        if rectified is None:
            by_g, by_m0, by_v = (1 - b1) * u_bar, b1 * u_bar, torch.zeros_like(p_bar)
        else:
            u_bar = rectified * u_bar
            root = v.sqrt()
            inverse_root, denominator = inverse(root), root + self.eps
            numerator = (1 - b1) * self.eps + (
                (1 - b1) * b2 * v0 - b1 * (1 - b2) * m0 * g
            ) * inverse_root
            by_g = u_bar * numerator / denominator**2
            by_m0 = b1 * u_bar / denominator
            by_v = -u_bar * m * inverse_root / (2 * denominator**2)
        g_bar = by_g + (1 - b1) * m_bar + 2 * (1 - b2) * g * v_bar
        before = {"exp_avg": b1 * m_bar + by_m0, "exp_avg_sq": b2 * (v_bar + by_v)}
        p_before, g_bar = seen.pull(p_bar, g_bar)
        return p_before, kept(state, before), g_bar

    @property
    def _seen(self) -> Seen:
        return Seen.of(self.maximize, self.lr, self.weight_decay, self.decoupled)

    def _rectified(self, state: TensorState) -> tuple[float, float | None]:
        """(c1, the factor on 1 / (sqrt(v) + eps), or None where v is not used yet)."""
        t, (b1, b2) = state.step + 1, self.betas
        c1, c2 = 1 - b1**t, 1 - b2**t
        longest = 2 / (1 - b2) - 1
        length = longest - 2 * t * b2**t / c2
        if length <= 5:
            return c1, None
        rect = (length - 4) * (length - 2) * longest
        return c1, (rect / ((longest - 4) * (longest - 2) * length)) ** 0.5 * c2**0.5

    def _moments(self, state: TensorState, g: Tensor) -> tuple[Tensor, Tensor]:
        b1, b2 = self.betas
        m0, v0 = held(state, g, "exp_avg", "exp_avg_sq")
        return lerp(m0, g, 1 - b1), torch.addcmul(b2 * v0, g, g, value=1 - b2)
