"""Splits labelled pictures into heads, feedback, held-out, fit, validation and test sets.

Training pictures serve as heads, feedback, held_out and fit (see
`vfunc.vision.data.vision_data.VisionData`); validation and test are measured on. Without a split of
their own, the latter are blocks of the training pictures, the same ones in every run, whichever of
the two is asked for. Splits share no picture, and are contiguous for video.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

import numpy as np

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.folder_layouts import Entry
from vfunc.vision.data.vision_data import Labelled

TRAINING = {"heads": 0.25, "feedback": 0.3, "held_out": 0.2, "fit": 0.25}
"""Shares of the training pictures."""
EVALUATION = {"validation": 0.15, "test": 0.2}
"""Shares of all pictures, where there is no such split."""

MINIMUM = 30
"""Frames in a video, below which it is joined with the next."""
VIDEOS = 8
"""At most about so many are split one by one: each split costs its gaps."""


@typed
def split_pool(
    pool: Sequence[Entry],
    given: Mapping[str, Sequence[Entry] | None],
    *,
    shuffle: bool = False,
    seed: int = 0,
) -> dict[str, list[Entry]]:
    """Split the labelled pictures that there are.

    A video is a run of neighbours whose names differ in their last number alone. Every video is
    split into one block a split, so that each split has every place; between blocks up to 5 frames
    (a 60th of the video) are left out. Pictures with a class are split class by class, without
    gaps.

    Args:
        pool: pictures for training, in order.
        given: validation or test pictures of their own; what is not there is taken of the pool,
            and what is None is not wanted.
        shuffle: split at random instead: for pictures that have nothing to do with one another.
        seed: of that permutation.

    Returns:
        heads, feedback, held_out, fit, and what is wanted of validation and test.

    Raises:
        UserError: too few pictures, saying how many are needed.
    """
    carved = {name: share for name, share in EVALUATION.items() if name not in given}
    rest = 1 - sum(carved.values())
    shares = {name: share * rest for name, share in TRAINING.items()} | carved
    splits: dict[str, list[Entry]] = {name: [] for name in shares}
    if any(entry.category is not None for entry in pool):
        runs = [[e for e in pool if e.category == name] for name in categories(pool)]
        gap = 0
    else:
        runs, gap = _videos(pool), 1
    for run in runs:
        gaps = 0 if shuffle else gap * min(5, max(1, len(run) // 60))
        sizes = _sizes(len(run) - gaps * (len(shares) - 1), list(shares.values()))
        blocks = _blocks(run, sizes, gaps, shuffle=shuffle, seed=seed)
        for name, block in zip(shares, blocks, strict=True):
            splits[name] += [run[index] for index in block]
    return splits | {name: list(entries) for name, entries in given.items() if entries is not None}


@typed
def split_contiguous(count: int, sizes: Sequence[int], *, gap: int = 0) -> tuple[range, ...]:
    """Blocks of neighbours, in order, with a gap between them: how frames of a video are split.

    Neighbouring frames show almost the same picture, so that splits at random would share what
    they show.

    Args:
        count: how many frames there are.
        sizes: frames of each block.
        gap: frames left out between two blocks.

    Raises:
        UserError: too few frames for the sizes and gaps, saying how many are needed; a size that
            is not positive; a negative gap.
    """
    if gap < 0:
        raise UserError(f"gap={gap}: the gap between splits cannot be negative")
    _require_enough(count, sizes, gap * (len(sizes) - 1))
    ends = accumulate(size + gap for size in sizes)
    return tuple(range(end - gap - size, end - gap) for end, size in zip(ends, sizes, strict=True))


@typed
def split_shuffled(count: int, sizes: Sequence[int], seed: int) -> tuple[tuple[int, ...], ...]:
    """Splits at random: for pictures that have nothing to do with one another.

    Args:
        count: how many pictures there are.
        sizes: of the splits.
        seed: of the permutation, not negative; a split does not depend on the sizes of those
            after it.

    Raises:
        UserError: too few pictures, saying how many are needed; a size that is not positive.
    """
    if seed < 0:
        raise UserError(f"seed {seed}: a seed cannot be negative")
    _require_enough(count, sizes, 0)
    order = np.random.default_rng(seed).permutation(count).tolist()
    ends = accumulate(sizes)
    return tuple(tuple(order[end - size : end]) for end, size in zip(ends, sizes, strict=True))


def categories(entries: Sequence[Entry]) -> list[str]:
    """Names of the classes of pictures, sorted."""
    return sorted({entry.category for entry in entries if entry.category is not None})


@typed
def labelled_sources(
    splits: Mapping[str, Sequence[Entry]],
    source: Callable[[Sequence[Entry]], Labelled],
    counts: Mapping[str, int],
    seed: int,
) -> dict[str, Labelled]:
    """The labelled splits of `VisionData`, each of at most `counts` pictures, evenly spaced.

    Each is put into an order that the seed decides, since batches are read in order and neighbours
    look alike. That of fit and test is the same for all seeds: runs are judged on the same.
    """
    strange = set(counts) - set(splits)
    if strange:
        raise UserError(f"{', '.join(sorted(strange))}: no split; there are {', '.join(splits)}")
    made = {}
    for number, (name, entries) in enumerate(sorted(splits.items())):
        generator = np.random.default_rng([number, 0 if name in ("fit", "test") else seed])
        chosen = thinned(entries, counts.get(name))
        order = generator.permutation(len(chosen)).tolist()
        made[name] = source([chosen[index] for index in order])
    return made


@typed
def thinned(entries: Sequence[Entry], count: int | None) -> list[Entry]:
    """At most so many, evenly spaced; None takes all."""
    count = len(entries) if count is None else min(count, len(entries))
    return [entries[index * len(entries) // count] for index in range(count)]


def _require_enough(count: int, sizes: Sequence[int], gaps: int) -> None:
    if not sizes or any(size <= 0 for size in sizes):
        raise UserError(f"splits of sizes {list(sizes)}: every split needs a positive size")
    if sum(sizes) + gaps > count:
        between = f" and {gaps} between them" if gaps else ""
        raise UserError(
            f"{count} pictures are too few: splits of {', '.join(map(str, sizes))}{between} need "
            f"{sum(sizes) + gaps}; give more pictures, or ask for smaller splits"
        )


def _blocks(
    run: Sequence[Entry], sizes: Sequence[int], gap: int, *, shuffle: bool, seed: int
) -> Sequence[Sequence[int]]:
    """The blocks of a video, or of a class, which is named where it has too few pictures."""
    try:
        if shuffle:
            return split_shuffled(len(run), sizes, seed)
        return split_contiguous(len(run), sizes, gap=gap)
    except UserError as error:
        if not run or run[0].category is None:
            raise
        raise UserError(f"class {run[0].category} ({run[0].image}, ...): {error}") from error


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of the shares, each at least 1, that use every picture."""
    ends = np.rint(np.cumsum(shares) * max(count, 0)).astype(int).tolist()
    return [max(1, end - start) for start, end in zip([0, *ends], ends, strict=False)]


def _videos(pool: Sequence[Entry]) -> list[list[Entry]]:
    """Runs of frames that are split one by one."""
    least = max(MINIMUM, len(pool) // VIDEOS)
    videos: list[list[Entry]] = []
    last = None
    for entry in pool:
        # seq-01/frame-000008.color.jpg: the number that counts frames is the name's last
        name = entry.image.name.split(".")[0]
        video = (
            entry.image.parent if isinstance(entry.image, Path) else "",
            re.sub(r"\d+$", "", name),
        )
        if not videos or (video != last and len(videos[-1]) >= least):
            videos.append([])
        videos[-1].append(entry)
        last = video
    if len(videos) > 1 and len(videos[-1]) < least:
        last_video = videos.pop()
        videos[-1] += last_video
    return videos
