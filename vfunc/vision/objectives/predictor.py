"""Predictor of I-JEPA: from features of the context to features of target patches."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.vision.seeded import STD

HEAD = 32
"""Number of channels of an attention head, as in the paper's (384 channels, 12 heads)."""


class Predictor(nn.Module):
    """A narrow ViT over context tokens and, for each target patch, a mask token with its position.

    lightly 1.6's IJEPAPredictorTIMM is right under functional_call, deep copies, double backward
    and forward-over-reverse; it is not used for its position table of one fixed grid. The stack of
    blocks should be shorter than the encoder's: the longest is what `last:N` counts in.
    """

    def __init__(self, width: int, inner: int, depth: int) -> None:
        """Weights are set by `vfunc.vision.seeded.seeded_module`.

        Args:
            width: width of the encoder.
            inner: width of the predictor, a multiple of 4.
            depth: number of blocks.
        """
        super().__init__()
        if inner < 4 or inner % 4:
            raise UserError(f"the predictor's width must be a multiple of 4, not {inner}")
        heads = inner // HEAD if inner % HEAD == 0 else 1
        norm = partial(nn.LayerNorm, eps=1e-6)
        self.inward = nn.Linear(width, inner)
        self.mask_token = nn.Parameter(torch.empty(inner))
        self.blocks = nn.ModuleList(
            # timm calls its norms, and annotates them as classes
            Block(inner, heads, qkv_bias=True, norm_layer=cast("Any", norm))
            for _ in range(depth)
        )
        self.norm = norm(inner)
        self.outward = nn.Linear(inner, width)

    def initialise(self, generator: torch.Generator) -> None:
        """Set the mask token, and scale each block's output down by its place (paper's code)."""
        nn.init.trunc_normal_(self.mask_token, std=STD, generator=generator)
        for place, block in enumerate(cast("Iterable[Any]", self.blocks), 1):
            for layer in (block.attn.proj, block.mlp.fc2):
                layer.weight.div_(math.sqrt(2 * place))

    def forward(
        self,
        tokens: Float[Tensor, "b p_c w"],
        grid: tuple[int, int],
        context: Int[Tensor, "b c"],
        targets: Int[Tensor, "b m t"],
    ) -> Float[Tensor, "b m t w"]:
        """Features of the target patches, block by block.

        Args:
            tokens: the encoder's tokens: prefix tokens, which get no position, then the context.
            grid: rows and columns of patches.
            context: patches that the encoder saw.
            targets: patches to predict.
        """
        m, t = targets.shape[1:]
        x = self.inward(tokens)
        positions = sine_positions(grid, x.shape[-1]).to(x)
        prefix = x.shape[1] - context.shape[1]
        x = x + nn.functional.pad(positions[context], (0, 0, prefix, 0))
        asked = self.mask_token.to(x.dtype) + positions[targets]
        x = torch.cat([x.unsqueeze(1).expand(-1, m, -1, -1), asked], 2).flatten(0, 1)
        for block in self.blocks:
            x = block(x)
        return self.outward(self.norm(x[:, -t:])).unflatten(0, (-1, m))


def sine_positions(grid: tuple[int, int], width: int) -> Float[Tensor, "t w"]:
    """Sines and cosines of the row, then of the column, of each patch in reading order.

    Args:
        grid: rows and columns.
        width: width of the result, a multiple of 4.
    """
    rate = 10_000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(
        *(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij"
    )
    angles = [place.flatten()[:, None] * rate for place in (row, column)]
    return torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], -1)
