"""Simulates `torch.optim.Adagrad`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.pieces import Seen, cotangents, inverse, kept
from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class Adagrad:
    """`torch.optim.Adagrad`: the gradient over the root of the sum of its squares so far."""

    lr: float
    lr_decay: float = 0.0
    weight_decay: float = 0.0
    initial_accumulator_value: float = 0.0
    eps: float = 1e-10
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: p - lr / (1 + t lr_decay) g / (sqrt(s0 + g^2) + eps), t steps before."""
        g = self._seen(p, g)
        total = torch.addcmul(self._before(state, g), g, g)
        after = torch.addcdiv(p, g, total.sqrt() + self.eps, value=-self._rate(state))
        return after, TensorState(state.step + 1, {"sum": total})

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`: with r the root, d/dg g / (r + eps) = (eps + s0 / r) / (r + eps)^2."""
        seen = self._seen
        g = seen(p, g)
        before = self._before(state, g)
        root = torch.addcmul(before, g, g).sqrt()
        inverse_root, denominator = inverse(root), root + self.eps
        (total_bar,) = cotangents(buffers_bar, p_bar, "sum")
        u_bar = -self._rate(state) * p_bar
        g_bar = u_bar * (self.eps + before * inverse_root) / denominator**2 + 2 * g * total_bar
        by_total = -u_bar * g * inverse_root / (2 * denominator**2)
        p_before, g_bar = seen.pull(p_bar, g_bar)
        return p_before, kept(state, {"sum": total_bar + by_total}), g_bar

    @property
    def _seen(self) -> Seen:
        return Seen(self.maximize, self.weight_decay)

    def _before(self, state: TensorState, g: Tensor) -> Tensor:
        found = state.buffers.get("sum")
        return torch.full_like(g, self.initial_accumulator_value) if found is None else found

    def _rate(self, state: TensorState) -> float:
        return self.lr / (1 + state.step * self.lr_decay)
