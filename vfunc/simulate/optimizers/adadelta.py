"""Simulates `torch.optim.Adadelta`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.pieces import Seen, cotangents, held, inverse, kept
from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class Adadelta:
    """`torch.optim.Adadelta`: steps in units of the steps so far."""

    lr: float = 1.0
    rho: float = 0.9
    eps: float = 1e-6
    weight_decay: float = 0.0
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: p - lr d, d = g sqrt(u0 + eps) / sqrt(v + eps), u the mean of d^2."""
        g = self._seen(p, g)
        v, _, _, d = self._delta(state, g)
        (moved,) = held(state, g, "acc_delta")
        moved = torch.addcmul(self.rho * moved, d, d, value=1 - self.rho)
        return p - self.lr * d, TensorState(state.step + 1, {"square_avg": v, "acc_delta": moved})

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`: d/dg g / sqrt(v + eps) = (rho v0 + eps) / (v + eps)^(3/2)."""
        seen = self._seen
        g = seen(p, g)
        rho = self.rho
        _, std, unit, d = self._delta(state, g)
        (v0,) = held(state, g, "square_avg")
        v_bar, moved_bar = cotangents(buffers_bar, p_bar, "square_avg", "acc_delta")
        d_bar = -self.lr * p_bar + 2 * (1 - rho) * d * moved_bar
        g_bar = d_bar * unit * (rho * v0 + self.eps) / std**3 + 2 * (1 - rho) * g * v_bar
        before = {
            "square_avg": rho * (v_bar - d_bar * d / (2 * std**2)),
            "acc_delta": rho * moved_bar + d_bar * g * inverse(unit) / (2 * std),
        }
        p_before, g_bar = seen.pull(p_bar, g_bar)
        return p_before, kept(state, before), g_bar

    @property
    def _seen(self) -> Seen:
        return Seen(self.maximize, self.weight_decay)

    def _delta(self, state: TensorState, g: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(v, its root, the root of u0, d), both roots with epsilon."""
        v0, moved = held(state, g, "square_avg", "acc_delta")
        v = torch.addcmul(self.rho * v0, g, g, value=1 - self.rho)
        std, unit = (v + self.eps).sqrt(), (moved + self.eps).sqrt()
        return v, std, unit, unit / std * g
