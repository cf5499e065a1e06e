"""Simulates `torch.optim.Muon`, one matrix at a time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.automatic import AutomaticRule
from vfunc.simulate.pieces import held, lerp
from vfunc.simulate.rule import TensorState


@dataclass(frozen=True)
class Muon(AutomaticRule):
    """`torch.optim.Muon`: momentum, made nearly orthogonal by a Newton-Schulz iteration.

    torch iterates in bfloat16 whatever the parameters are in, and so does the step here. Its
    derivative is that of the same iteration in the parameters' own precision: bfloat16's would be
    right to two digits.

    Attributes:
        coefficients: of the quintic iteration.
        eps: least norm that the momentum is divided by.
        iterations: how many.
        adjust_lr_fn: `original`, `match_rms_adamw`, `spectral_unclamped`: what the step size is
            multiplied by for a matrix of this shape.
        narrow: whether the iteration is in bfloat16; False makes a smooth function of the step,
            for comparison with finite differences.
    """

    lr: float
    weight_decay: float = 0.1
    momentum: float = 0.95
    nesterov: bool = True
    coefficients: tuple[float, float, float] = (3.4445, -4.7750, 2.0315)
    eps: float = 1e-7
    iterations: int = 5
    adjust_lr_fn: str | None = None
    narrow: bool = True

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`; p is a matrix."""
        (moving,) = held(state, g, "momentum_buffer")
        moving = lerp(moving, g, 1 - self.momentum)
        update = lerp(g, moving, self.momentum) if self.nesterov else moving
        decayed = p * (1 - self.lr * self.weight_decay)
        after = torch.add(decayed, self._orthogonal(update), alpha=-self._rate(p))
        return after, TensorState(state.step + 1, {"momentum_buffer": moving})

    def _orthogonal(self, x: Tensor) -> Tensor:
        if not self.narrow:
            return self._iterated(x)
        narrow = self._iterated(x.detach().bfloat16())
        if not x.requires_grad:
            return narrow
        wide = self._iterated(x)
        return wide + (narrow - wide).detach()

    def _iterated(self, x: Tensor) -> Tensor:
        """Newton-Schulz, in the precision of x, along its shorter side."""
        a, b, c = self.coefficients
        tall = x.size(0) > x.size(1)
        y = x.T if tall else x
        y = y / y.norm().clamp(min=self.eps)
        for _ in range(self.iterations):
            gram = y @ y.T
            y = torch.addmm(y, torch.addmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
        return y.T if tall else y

    def _rate(self, p: Tensor) -> float:
        rows, columns = p.shape
        if self.adjust_lr_fn in (None, "original"):
            return self.lr * math.sqrt(max(1, rows / columns))
        if self.adjust_lr_fn == "match_rms_adamw":
            return self.lr * 0.2 * math.sqrt(max(rows, columns))
        if self.adjust_lr_fn == "spectral_unclamped":
            return self.lr * math.sqrt(rows / columns)
        return self.lr
