"""Simulates `torch.optim.SGD`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class SGD:
    """`torch.optim.SGD`: momentum, dampening, Nesterov, coupled weight decay."""

    lr: float
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`. The first momentum buffer is the gradient itself, undampened."""
        g = -g if self.maximize else g
        g = g + self.weight_decay * p if self.weight_decay else g
        if not self.momentum:
            return p - self.lr * g, TensorState(state.step + 1)
        old = state.buffers.get("momentum_buffer")
        buffer = g if old is None else self.momentum * old + (1 - self.dampening) * g
        d = g + self.momentum * buffer if self.nesterov else buffer
        return p - self.lr * d, TensorState(state.step + 1, {"momentum_buffer": buffer})

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`. The step is affine in (p, buffer, g)."""
        d_bar = -self.lr * p_bar
        before: Buffers = {}
        g_bar = d_bar
        if self.momentum:
            buffer_bar = buffers_bar.get("momentum_buffer", torch.zeros_like(p_bar))
            buffer_bar = buffer_bar + (self.momentum * d_bar if self.nesterov else d_bar)
            g_bar = d_bar if self.nesterov else torch.zeros_like(d_bar)
            if "momentum_buffer" in state.buffers:
                before["momentum_buffer"] = self.momentum * buffer_bar
                g_bar = g_bar + (1 - self.dampening) * buffer_bar
            else:
                g_bar = g_bar + buffer_bar
        p_before = p_bar + self.weight_decay * g_bar
        return p_before, before, -g_bar if self.maximize else g_bar
