"""Projection head of DINO (Caron et al. 2021, appendix C)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.errors import UserError

HIDDEN, BOTTLENECK, SMALLEST = 2048, 256, 384
"""The paper's sizes, and the width of its smallest encoder (ViT-S)."""


def head_sizes(width: int, hidden: int | None, bottleneck: int | None) -> tuple[int, int]:
    """Widths of the hidden layers and of the bottleneck.

    Args:
        width: width of the encoder.
        hidden: None is the paper's 2048, or four times a width below 384.
        bottleneck: None is the paper's 256, or the hidden width where that is less.

    Raises:
        UserError: one is not positive.
    """
    if hidden is None:
        hidden = HIDDEN if width >= SMALLEST else 4 * width
    if bottleneck is None:
        bottleneck = min(BOTTLENECK, hidden)
    if min(hidden, bottleneck) < 1:
        raise UserError("the widths of DINO's head must be positive")
    return hidden, bottleneck


class UnitRows(nn.Module):
    """x -> W x with rows of W of norm one: a weight-normalised layer with its gain fixed at 1.

    The norm is divided out in forward, so that there is nothing but one parameter to swap, copy or
    differentiate.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.empty(outputs, inputs))

    def initialise(self, generator: torch.Generator) -> None:
        """Initialise as `nn.Linear` does; the rows' lengths set how fast they turn."""
        bound = self.direction.shape[1] ** -0.5
        nn.init.uniform_(self.direction, -bound, bound, generator=generator)

    def forward(self, x: Float[Tensor, "n i"]) -> Float[Tensor, "n o"]:
        """W x, the rows of W of norm one."""
        return F.linear(x, F.normalize(self.direction, dim=-1))


class DinoHead(nn.Module):
    """Three layers with GELU, a bottleneck of norm one, and `UnitRows`.

    lightly 1.6's DINOProjectionHead is not used: torch's weight norm refuses a deep copy, before or
    after a forward with a graph, leaves a tensor of the transform in the module under `torch.func`,
    and calls a kernel (`torch._weight_norm`, as `parametrizations.weight_norm` does too) that has
    no forward mode and whose double backward is silently wrong in torch 2.15: gradgradcheck fails
    on a 3 x 4 matrix, and 40 % is off in a small head.
    """

    def __init__(self, width: int, hidden: int, bottleneck: int, outputs: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.last = UnitRows(bottleneck, outputs)

    def forward(self, x: Float[Tensor, "n w"]) -> Float[Tensor, "n o"]:
        """The logits of features."""
        return self.last(F.normalize(self.mlp(x), dim=-1))
