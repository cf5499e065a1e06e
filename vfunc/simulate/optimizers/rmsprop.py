"""Simulates `torch.optim.RMSprop`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.pieces import Seen, cotangents, held, inverse, kept, lerp
from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class RMSprop:
    """`torch.optim.RMSprop`: plain, with momentum, and centered."""

    lr: float
    alpha: float = 0.99
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum: float = 0.0
    centered: bool = False
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: p - lr b, b = momentum b0 + g / (r + eps)."""
        g = self._seen(p, g)
        v, mean, root = self._averages(state, g)
        buffers = {"square_avg": v}
        if self.centered:
            buffers["grad_avg"] = mean
        if not self.momentum:
            after = torch.addcdiv(p, g, root + self.eps, value=-self.lr)
            return after, TensorState(state.step + 1, buffers)
        (moving,) = held(state, g, "momentum_buffer")
        moving = torch.addcdiv(self.momentum * moving, g, root + self.eps)
        buffers["momentum_buffer"] = moving
        return p - self.lr * moving, TensorState(state.step + 1, buffers)

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`.

        With r^2 = a v0 + (1 - a) g^2, d/dg g / (r + eps) = (eps + a v0 / r) / (r + eps)^2. Where
        it is centered, r^2 = a [(v0 - n0^2) + (1 - a) (g - n0)^2], n0 the mean of gradients
        before, and [(v0 - n0^2) - (1 - a) n0 (g - n0)] stands for v0.
        """
        seen = self._seen
        g = seen(p, g)
        a = self.alpha
        _, mean, root = self._averages(state, g)
        v0, mean0 = held(state, g, "square_avg", "grad_avg")
        v_bar, mean_bar, moving_bar = cotangents(
            buffers_bar, p_bar, "square_avg", "grad_avg", "momentum_buffer"
        )
        inverse_root, denominator = inverse(root), root + self.eps
        u_bar = -self.lr * p_bar
        before: Buffers = {}
        if self.momentum:
            u_bar = u_bar + moving_bar
            before["momentum_buffer"] = self.momentum * u_bar
        earlier = v0
        if self.centered:
            earlier = (v0 - mean0 * mean0) - (1 - a) * mean0 * (g - mean0)
        by_square = -u_bar * g * inverse_root / (2 * denominator**2)  # in r^2
        g_bar = u_bar * (self.eps + a * earlier * inverse_root) / denominator**2
        g_bar = g_bar + 2 * (1 - a) * g * v_bar
        before["square_avg"] = a * (v_bar + by_square)
        if self.centered:
            g_bar = g_bar + (1 - a) * mean_bar
            before["grad_avg"] = a * (mean_bar - 2 * mean * by_square)
        p_before, g_bar = seen.pull(p_bar, g_bar)
        return p_before, kept(state, before), g_bar

    @property
    def _seen(self) -> Seen:
        return Seen(self.maximize, self.weight_decay)

    def _averages(self, state: TensorState, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(v, the mean gradient, r)."""
        v0, mean0 = held(state, g, "square_avg", "grad_avg")
        v = torch.addcmul(self.alpha * v0, g, g, value=1 - self.alpha)
        if not self.centered:
            return v, mean0, v.sqrt()
        mean = lerp(mean0, g, 1 - self.alpha)
        return v, mean, torch.addcmul(v, mean, mean, value=-1).sqrt()
