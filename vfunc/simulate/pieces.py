"""Arithmetic that several optimizers share: averages, roots, decay and their pullbacks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class Seen:
    """What an optimizer makes of (p, g) before its own arithmetic: sign and weight decay.

    Attributes:
        maximize: whether it climbs.
        coupled: weight decay that is added to the gradient.
        decay: the factor on p, 1 - lr * weight decay where that is decoupled.
    """

    maximize: bool
    coupled: float = 0.0
    decay: float = 1.0

    @classmethod
    def of(cls, maximize: bool, lr: float, weight_decay: float, decoupled: bool) -> Seen:
        """The same, from an optimizer's options."""
        if decoupled:
            return cls(maximize, decay=1 - lr * weight_decay)
        return cls(maximize, coupled=weight_decay)

    def __call__(self, p: Tensor, g: Tensor) -> Tensor:
        """The gradient that the averages are made of."""
        g = -g if self.maximize else g
        return g + self.coupled * p if self.coupled else g

    def pull(self, p_bar: Tensor, g_bar: Tensor) -> tuple[Tensor, Tensor]:
        """Cotangents of (p, g) from those of the decayed p and of the gradient seen."""
        return self.decay * p_bar + self.coupled * g_bar, -g_bar if self.maximize else g_bar


def lerp(start: Tensor, end: Tensor, weight: float) -> Tensor:
    """start + weight (end - start) in torch's own rounding, for operands of two precisions too."""
    dtype = torch.promote_types(start.dtype, end.dtype)
    return torch.lerp(start.to(dtype), end.to(dtype), weight)


def inverse(root: Tensor) -> Tensor:
    """1 / root, and 0 where the root is 0: there what it multiplies has the limit 0."""
    positive = root > 0
    return torch.where(positive, root, 1.0).reciprocal() * positive


def held(state: TensorState, g: Tensor, *names: str) -> tuple[Tensor, ...]:
    """Buffers of these names; zeros, like g, where no step has been taken."""
    zero = torch.zeros_like(g)
    return tuple(state.buffers.get(name, zero) for name in names)


def cotangents(buffers_bar: Mapping[str, Tensor], p_bar: Tensor, *names: str) -> tuple[Tensor, ...]:
    """Cotangents of the next buffers of these names; zeros where there is none."""
    zero = torch.zeros_like(p_bar)
    return tuple(buffers_bar.get(name, zero) for name in names)


def kept(state: TensorState, before: Buffers) -> Buffers:
    """The cotangents of those buffers that the state has."""
    return {name: x for name, x in before.items() if name in state.buffers}
