"""Small patchwise transformer: one logit of mu for every patch, interpolated to pixels."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn


class PatchTransformer(nn.Module):
    """Images -> logits: the paper's patchwise DiT.

    What is meant of a DiT (Peebles and Xie, 2023) is its trunk: patches with fixed sine-cosine
    positions, pre-norm attention blocks, and a linear head that answers for each patch. There is
    no diffusion here, hence no time step and no adaptive normalisation that would carry it.

    Args:
        width: width of the residual stream, a multiple of 4.
        depth: number of attention blocks.
        heads: number of attention heads, a divisor of the width.
        patch: side of a patch, pixels.
    """

    def __init__(self, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patch = patch
        self.embedding = nn.Conv2d(3, width, patch, stride=patch)
        self.blocks = nn.ModuleList(_Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.logit = nn.Linear(width, 1)
        # unit inputs and default weights would spread the logits by more than a mask starts with
        nn.init.normal_(self.logit.weight, std=0.25 / math.sqrt(width))

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
        """The logits of images in [0, 1]; their sides are multiples of the patch."""
        patches = self.embedding(2 * images - 1)
        rows, columns = patches.shape[-2:]
        x = rearrange(patches, "n d r c -> n (r c) d")
        x = x + _positions(rows, columns, x)
        for block in self.blocks:
            x = block(x)
        logits = rearrange(self.logit(self.norm(x)), "n (r c) 1 -> n 1 r c", r=rows)
        vertical = _interpolation(rows, self.patch, logits)
        horizontal = _interpolation(columns, self.patch, logits)
        return vertical @ logits @ horizontal.T


class _Block(nn.Module):
    """Pre-norm attention, then a pre-norm feed-forward layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width)
        self.project = nn.Linear(width, 3 * width)
        self.merge = nn.Linear(width, width)
        self.norm_2 = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = rearrange(
            self.project(self.norm_1(x)), "n t (three h d) -> three n h t d", three=3, h=self.heads
        )
        attended = F.scaled_dot_product_attention(query, key, value)
        x = x + self.merge(rearrange(attended, "n h t d -> n t (h d)"))
        return x + self.feed(self.norm_2(x))


def _positions(rows: int, columns: int, like: Tensor) -> Tensor:
    """Sine-cosine positions (rows * columns, d): half of d for the row, half for the column."""
    quarter = like.shape[-1] // 4
    octave = torch.arange(quarter, device=like.device, dtype=like.dtype) / quarter
    # a picture has tens of patches a side, so the slowest wave need not be longer than hundreds
    rate = torch.exp(-math.log(100.0) * octave)
    waves = []
    for count in (rows, columns):
        angle = torch.arange(count, device=like.device, dtype=like.dtype)[:, None] * rate
        waves.append(torch.cat([angle.sin(), angle.cos()], -1))
    row, column = waves
    both = torch.cat(
        [row[:, None].expand(-1, columns, -1), column[None].expand(rows, -1, -1)], dim=-1
    )
    return both.flatten(0, 1)


def _interpolation(count: int, factor: int, like: Tensor) -> Tensor:
    """Linear interpolation of `count` samples to count * factor pixels, as a matrix.

    It is `F.interpolate(mode="bilinear", align_corners=False)`, whose backward pass on a GPU is
    not deterministic.
    """
    pixel = torch.arange(count * factor, device=like.device, dtype=like.dtype)
    place = ((pixel + 0.5) / factor - 0.5).clamp(0, count - 1)
    sample = torch.arange(count, device=like.device, dtype=like.dtype)
    return (1 - (place[:, None] - sample).abs()).clamp(min=0)
