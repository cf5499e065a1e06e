"""Parts of one set of pictures that share none: contiguous for video, shuffled otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.examples import Example, Labelled


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the examples of a source; itself a source.

    Attributes:
        source: where the examples are.
        indices: which, in this part's order; all within the source.
    """

    source: Labelled
    indices: Sequence[int]

    def __post_init__(self) -> None:
        outside = [i for i in self.indices if not 0 <= i < len(self.source)]
        if outside:
            raise UserError(
                f"picture {outside[0]} of a part is not among the {len(self.source)} there are"
            )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        return self.source[self.indices[index]]


@typed
def split_contiguous(
    count: int, sizes: Sequence[int] | Sequence[float], *, gap: int = 0
) -> tuple[range, ...]:
    """Blocks of neighbours, in order, with a gap between them: how frames of a video are split.

    Neighbouring frames show almost the same picture, so that parts drawn at random would share
    what they show.

    Args:
        count: how many frames there are.
        sizes: a part's frames; or, where they are floats, its share of the frames that the gaps
            leave. Shares add up to at most 1; each part gets at least one frame.
        gap: frames left out between two parts.

    Raises:
        UserError: too few frames for the sizes and gaps, saying how many are needed; a size or
            share that is not positive; shares that add up to more than 1; a negative gap.
    """
    if gap < 0:
        raise UserError(f"gap={gap}: the gap between parts cannot be negative")
    lost = gap * (len(sizes) - 1)
    blocks = _blocks(count - lost, sizes, lost)
    ends = accumulate(block + gap for block in blocks)
    return tuple(
        range(end - gap - block, end - gap) for end, block in zip(ends, blocks, strict=True)
    )


@typed
def split_shuffled(count: int, sizes: Sequence[int], seed: int) -> tuple[tuple[int, ...], ...]:
    """Parts drawn at random: for pictures that have nothing to do with one another.

    Args:
        count: how many pictures there are.
        sizes: of the parts.
        seed: of the draw, not negative; a part does not depend on the sizes of those after it.

    Raises:
        UserError: too few pictures, saying how many are needed; a size that is not positive.
    """
    if seed < 0:
        raise UserError(f"seed {seed}: a seed cannot be negative")
    order = np.random.default_rng(seed).permutation(count).tolist()
    ends = accumulate(_blocks(count, sizes, 0))
    return tuple(tuple(order[end - size : end]) for end, size in zip(ends, sizes, strict=True))


def _blocks(usable: int, sizes: Sequence[int] | Sequence[float], lost: int) -> list[int]:
    if not sizes or any(size <= 0 for size in sizes):
        raise UserError(f"parts of sizes {list(sizes)}: every part needs a positive size")
    shares = any(isinstance(size, float) for size in sizes)
    if shares and sum(sizes) > 1 + 1e-9:
        raise UserError(f"shares {list(sizes)} add up to {sum(sizes):g}; they may at most to 1")
    # What rounding down leaves is left out: a part never grows into another.
    blocks = [max(1, int(size * usable + 1e-9)) if shares else int(size) for size in sizes]
    if sum(blocks) > usable:
        gaps = f" and {lost} between them" if lost else ""
        raise UserError(
            f"{usable + lost} pictures are too few: parts of {', '.join(map(str, blocks))}{gaps} "
            f"need {sum(blocks) + lost}; give more pictures, or ask for smaller parts"
        )
    return blocks
