"""Simulates `torch.optim.Rprop`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.automatic import AutomaticRule
from vfunc.simulate.pieces import held
from vfunc.simulate.rule import TensorState


@dataclass(frozen=True)
class Rprop(AutomaticRule):
    """`torch.optim.Rprop`: the gradient's sign, times a step size that its changes of sign make.

    Nothing here but p and the step size has a slope: the derivative in the gradient is zero.
    """

    lr: float
    etas: tuple[float, float] = (0.5, 1.2)
    step_sizes: tuple[float, float] = (1e-6, 50.0)
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`. Where the sign has turned, the step shrinks and is left out once."""
        g = -g if self.maximize else g
        (previous,) = held(state, g, "prev")
        size = state.buffers.get("step_size")
        size = torch.full_like(g, self.lr) if size is None else size
        less, more = self.etas
        agreement = (g * previous).sign()
        # not torch.where of two numbers, which rounds them to the default dtype
        factor = torch.ones_like(size).masked_fill(agreement > 0, more)
        factor = factor.masked_fill(agreement < 0, less)
        size = (size * factor).clamp(*self.step_sizes)
        g = torch.where(agreement < 0, 0.0, g)
        after = torch.addcmul(p, g.sign(), size, value=-1)
        return after, TensorState(state.step + 1, {"prev": g, "step_size": size})
