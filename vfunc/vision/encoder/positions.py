"""Computes positions of patches: learned embeddings on any grid, rotary angles of any patches."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn

from vfunc.typecheck import typed


@typed
def resampled(
    table: Float[Tensor, "1 t d"], native: tuple[int, int], grid: tuple[int, int], prefix: int
) -> Float[Tensor, "1 s d"]:
    """Learned position embeddings on another grid; on their own grid, the table itself.

    The numbers of timm's `resample_abs_pos_embed`, which computes in float32 whatever the table is
    in: finite differences of a float64 model are off by 1e-7 there.

    Args:
        table: embeddings of the prefix tokens, then of the patches row by row.
        native: rows and columns of the table.
        grid: rows and columns to resample to.
        prefix: number of tokens with a position before the patches.
    """
    if tuple(grid) == tuple(native):
        return table
    dtype = torch.promote_types(table.dtype, torch.float32)
    with _full_precision(table.device.type):
        square = rearrange(table[0, prefix:].to(dtype), "(h w) d -> h w d", h=native[0])
        rows = resampling(native[0], grid[0], square)
        columns = resampling(native[1], grid[1], square)
        new = einsum(rows, columns, square, "i h, j w, h w d -> i j d")
    new = rearrange(new, "i j d -> 1 (i j) d").to(table.dtype)
    return torch.cat([table[:, :prefix], new], 1)


@typed
def resampling(old: int, new: int, like: Float[Tensor, "..."]) -> Float[Tensor, "{new} {old}"]:
    """The matrix that resamples `old` points in a row to `new`: bicubic, with antialiasing.

    Along both sides of a square it is `F.interpolate(mode="bicubic", antialias=True)`, whose kernel
    it is (Keys 1981 with a = -1/2, widened where there are fewer points than before). As a matrix
    product it has every derivative in any precision, and a deterministic one on CUDA. It is not
    made by that function from a column: torch 2.15 answers wrongly for pictures 1 pixel wide.
    """
    places = torch.arange(max(old, new), dtype=like.dtype, device=like.device) + 0.5
    centres = places[:new] * (old / new)
    x = (places[:old] - centres[:, None]).abs() / max(old / new, 1.0)
    near = (1.5 * x - 2.5) * x.square() + 1
    far = ((2.5 - 0.5 * x) * x - 4) * x + 2
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return weights / weights.sum(1, keepdim=True)


@typed
def rotary_positions(
    rope: nn.Module,
    grid: tuple[int, int],
    kept: Int[Tensor, "n k"] | None,
    like: Float[Tensor, "..."],
) -> Float[Tensor, "..."]:
    """Sines and cosines of the patches' positions, as timm's attention wants them.

    Args:
        rope: timm's module, made without a grid of its own.
        grid: rows and columns of the whole grid.
        kept: the patches, picture by picture; None for all.
        like: a tensor on the device wanted.

    Returns:
        (patches, c); with `kept`, (pictures, 1, patches, c), the 1 for the heads. With learned
        frequencies, blocks come first, and heads are in their place.
    """
    angles = cast("Any", rope).get_embed(shape=grid).to(like.device)
    if kept is None:
        return angles
    return angles[:, :, kept].movedim(2, 1) if angles.ndim == 4 else angles[kept].unsqueeze(1)


def _full_precision(device: str) -> contextlib.AbstractContextManager[object]:
    if torch.amp.is_autocast_available(device):
        return torch.autocast(device, enabled=False)
    return contextlib.nullcontext()
