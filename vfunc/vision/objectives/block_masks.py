"""Samples I-JEPA's context and target blocks (Assran et al. 2023, section 3).

Sizes are sampled once a batch, places picture by picture, as in the paper's code. That code takes a
block's scale and aspect from one random number, and never places one at the lower or right edge;
here they are sampled apart, and over all places. It trims contexts to one length by dropping the
last patches in reading order; here random ones go, so that the bottom of pictures is seen as often
as the top.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.vision.data.batches import Blocks

SMALLEST = 4
"""Patches along the side of the smallest grid."""

TRIES = 8
"""Attempts to place targets that leave enough of the context."""


@dataclass(frozen=True)
class BlockMasks:
    """Ranges of uniform distributions that blocks are sampled from.

    Attributes:
        targets: m, target blocks a picture; they may overlap.
        target_scale: share of the patches in a target block.
        target_aspect: height over width of a target block.
        context_scale: share of the patches in the context block, a square before the targets are
            taken out of it.
    """

    targets: int = 4
    target_scale: tuple[float, float] = (0.15, 0.2)
    target_aspect: tuple[float, float] = (0.75, 1.5)
    context_scale: tuple[float, float] = (0.85, 1.0)

    def __post_init__(self) -> None:
        if self.targets < 1:
            raise UserError(f"I-JEPA needs at least one target block, not {self.targets}")
        for name in ("target_scale", "context_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise UserError(f"I-JEPA's {name} must satisfy 0 < low <= high <= 1")
        if not 0 < self.target_aspect[0] <= self.target_aspect[1]:
            raise UserError("I-JEPA's target_aspect must satisfy 0 < low <= high")
        if self.context_scale[0] <= self.target_scale[1]:
            raise UserError(
                "I-JEPA's context must be larger than a target: raise context_scale above "
                f"{self.target_scale[1]:g}"
            )

    def sample(self, pictures: int, grid: tuple[int, int], generator: torch.Generator) -> Blocks:
        """Sample the blocks of a batch of pictures.

        A context keeps at least a sixteenth of all patches: targets that leave less are sampled
        again, and at the last put on top of one another.

        Args:
            pictures: b, the number of pictures.
            grid: rows and columns of patches.
            generator: source of random numbers, on the CPU.

        Returns:
            Patches in reading order, as many for each picture.

        Raises:
            UserError: the grid is smaller than 4 x 4, or a target covers the whole context.
        """
        rows, columns = grid
        if min(grid) < SMALLEST:
            raise UserError(
                f"I-JEPA's blocks need a grid of {SMALLEST} x {SMALLEST} patches or more, and this "
                f"one is {rows} x {columns}: give larger pictures"
            )
        chance = torch.rand(3, generator=generator).tolist()
        size = _size(grid, self.target_scale, self.target_aspect, chance[0], chance[1])
        seen = _size(grid, self.context_scale, (1.0, 1.0), chance[2], 0.0)
        least = max(1, rows * columns // 16)
        if seen[0] * seen[1] - size[0] * size[1] < least:
            raise UserError(
                f"a target block of {size[0]} x {size[1]} leaves next to nothing of a context of "
                f"{seen[0]} x {seen[1]} patches: raise context_scale or lower target_scale"
            )
        whole = _block(_places(grid, seen, (pictures, 1), generator), seen, grid)[:, 0]
        places = _places(grid, size, (pictures, self.targets), generator)
        blocks = context = whole
        for attempt in range(TRIES):
            blocks = _block(places, size, grid)
            context = whole & ~blocks.any(1)
            short = context.sum((-1, -2)) < least
            if not short.any():
                break
            if attempt == TRIES - 2:
                places[short] = places[short][:, :1].expand_as(places[short])
            else:
                again = _places(grid, size, (pictures, self.targets), generator)
                places[short] = again[short]
        flat = context.flatten(1)
        return Blocks(_trimmed(flat, generator), _indices(blocks.flatten(2)))


def _size(
    grid: tuple[int, int],
    scale: tuple[float, float],
    aspect: tuple[float, float],
    scale_chance: float,
    aspect_chance: float,
) -> tuple[int, int]:
    """Rows and columns of a block of a sampled share of the grid, and aspect."""
    patches = grid[0] * grid[1] * (scale[0] + (scale[1] - scale[0]) * scale_chance)
    ratio = aspect[0] + (aspect[1] - aspect[0]) * aspect_chance
    sides = (round(math.sqrt(patches * ratio)), round(math.sqrt(patches / ratio)))
    return min(max(sides[0], 1), grid[0]), min(max(sides[1], 1), grid[1])


def _places(
    grid: tuple[int, int], size: tuple[int, int], shape: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Upper left corners (..., 2), uniformly among those that fit."""
    corners = [
        torch.randint(whole - part + 1, shape, generator=generator)
        for whole, part in zip(grid, size, strict=True)
    ]
    return torch.stack(corners, -1)


def _block(places: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Which patches (..., rows, columns) are in the block at each place."""
    inside = [
        (torch.arange(whole) >= start[..., None]) & (torch.arange(whole) < start[..., None] + part)
        for whole, part, start in zip(grid, size, places.unbind(-1), strict=True)
    ]
    return inside[0][..., :, None] & inside[1][..., None, :]


def _trimmed(chosen: Tensor, generator: torch.Generator) -> Tensor:
    """Indices of the chosen patches, random ones left out so that all pictures have as many."""
    keep = int(chosen.sum(-1).min())
    chance = torch.rand(chosen.shape, generator=generator).masked_fill(~chosen, 2.0)
    return chance.argsort(-1)[:, :keep].sort(-1).values


def _indices(chosen: Tensor) -> Tensor:
    """Indices of the chosen patches, as many in every row."""
    count = int(chosen[0, 0].sum())
    return chosen.nonzero()[:, -1].view(*chosen.shape[:2], count)
