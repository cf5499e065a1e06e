"""Which labelled pictures serve for what: parts that share no picture, contiguous for video.

Training pictures serve as heads, feedback, held_out and fit (see
`vfunc.vision.data.examples.VisionData`); validation and test are
measured on. Without parts of their own, the latter are blocks of the training pictures, the same
ones in every run, whichever of the two is asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.decoding import File
from vfunc.vision.data.examples import Labelled
from vfunc.vision.data.layouts import Entry
from vfunc.vision.data.parts import split_contiguous, split_shuffled

TRAINING = {"heads": 0.25, "feedback": 0.3, "held_out": 0.2, "fit": 0.25}
"""Shares of the training pictures."""
EVALUATION = {"validation": 0.15, "test": 0.2}
"""Shares of all pictures, where there is no such part."""

MINIMUM = 30
"""Frames in a video, below which it is joined with the next."""
VIDEOS = 8
"""At most about so many are split one by one: each split costs its gaps."""


@typed
def split_roles(
    pool: Sequence[Entry],
    given: Mapping[str, Sequence[Entry] | None],
    *,
    shuffle: bool = False,
    seed: int = 0,
) -> dict[str, list[Entry]]:
    """Split labelled pictures by role.

    A video is a run of neighbours whose names differ in their last number alone. Every video is
    split into one block a role, so that each role sees every place; between blocks up to 5 frames
    (a 60th of the video) are left out. Pictures with a class are split class by class, without
    gaps.

    Args:
        pool: pictures for training, in order.
        given: validation or test pictures of their own; what is not there is taken of the pool,
            and what is None is not wanted.
        shuffle: split at random instead: for pictures that have nothing to do with one another.
        seed: of that draw.

    Returns:
        heads, feedback, held_out, fit, and what is wanted of validation and test.

    Raises:
        UserError: too few pictures, saying how many are needed.
    """
    carved = {role: share for role, share in EVALUATION.items() if role not in given}
    rest = 1 - sum(carved.values())
    shares = {role: share * rest for role, share in TRAINING.items()} | carved
    roles: dict[str, list[Entry]] = {role: [] for role in shares}
    if any(entry.category is not None for entry in pool):
        runs = [[e for e in pool if e.category == name] for name in categories(pool)]
        gap = 0
    else:
        runs, gap = _videos(pool), 1
    for run in runs:
        gaps = 0 if shuffle else gap * min(5, max(1, len(run) // 60))
        sizes = _sizes(len(run) - gaps * (len(shares) - 1), list(shares.values()))
        parts: Sequence[Sequence[int]] = (
            split_shuffled(len(run), sizes, seed)
            if shuffle
            else split_contiguous(len(run), sizes, gap=gaps)
        )
        for role, part in zip(shares, parts, strict=True):
            roles[role] += [run[index] for index in part]
    return roles | {role: list(entries) for role, entries in given.items() if entries is not None}


def categories(entries: Sequence[Entry]) -> list[str]:
    """Names of the classes of pictures, sorted."""
    return sorted({entry.category for entry in entries if entry.category is not None})


@typed
def distinct(roles: Mapping[str, Sequence[Entry]]) -> tuple[dict[str, list[Entry]], dict[str, int]]:
    """Leave out of each role the pictures that are, byte for byte, another role's too.

    Test pictures stay test pictures, then those of validation, held_out, fit, feedback, heads.

    Returns:
        The roles, and how many pictures each lost.

    Raises:
        UserError: nothing is left of a role.
    """
    keys = content_keys([entry.image for entries in roles.values() for entry in entries])
    kept: dict[str, list[Entry]] = {}
    seen: set[object] = set()
    order = ("test", "validation", "held_out", "fit", "feedback", "heads")
    for role in (role for role in order if role in roles):
        kept[role] = [entry for entry in roles[role] if keys[entry.image] not in seen]
        seen |= {keys[entry.image] for entry in kept[role]}
        if not kept[role]:
            raise UserError(
                f"every picture for {role} is one of another role too, as {roles[role][0].image}"
                if roles[role]
                else f"there are no pictures for {role}; give more"
            )
    lost = {role: len(roles[role]) - len(entries) for role, entries in kept.items()}
    return {role: kept[role] for role in roles}, {role: n for role, n in lost.items() if n}


@typed
def content_keys(files: Sequence[File]) -> dict[File, tuple[int, str]]:
    """A key a file: equal keys are equal contents. Read are only those of equal length."""
    sizes = {file: _length(file) for file in files}
    shared = Counter(sizes.values())
    return {file: (size, _digest(file) if shared[size] > 1 else "") for file, size in sizes.items()}


@typed
def labelled_sources(
    roles: Mapping[str, Sequence[Entry]],
    source: Callable[[Sequence[Entry]], Labelled],
    counts: Mapping[str, int],
    seed: int,
) -> dict[str, Labelled]:
    """The labelled parts of `VisionData`, each of at most `counts` pictures, evenly spaced.

    Each is put into an order drawn from the seed, since batches are read in order and neighbours
    look alike. That of fit and test is the same for all seeds: runs are judged on the same.
    """
    strange = set(counts) - set(roles)
    if strange:
        raise UserError(f"{', '.join(sorted(strange))}: no role; there are {', '.join(roles)}")
    made = {}
    for number, (role, entries) in enumerate(sorted(roles.items())):
        draw = np.random.default_rng([number, 0 if role in ("fit", "test") else seed])
        chosen = thinned(entries, counts.get(role))
        made[role] = source([chosen[index] for index in draw.permutation(len(chosen)).tolist()])
    return made


@typed
def thinned(entries: Sequence[Entry], count: int | None) -> list[Entry]:
    """At most so many, evenly spaced; None takes all."""
    count = len(entries) if count is None else min(count, len(entries))
    return [entries[index * len(entries) // count] for index in range(count)]


def _sizes(count: int, shares: Sequence[float]) -> list[int]:
    """Whole numbers in the proportion of the shares, each at least 1, that use every picture."""
    ends = np.rint(np.cumsum(shares) * max(count, 0)).astype(int).tolist()
    return [max(1, end - start) for start, end in zip([0, *ends], ends, strict=False)]


def _videos(pool: Sequence[Entry]) -> list[list[Entry]]:
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


def _length(file: File) -> int:
    return file.stat().st_size if isinstance(file, Path) else len(file.data)


def _digest(file: File) -> str:
    data = file.read_bytes() if isinstance(file, Path) else file.data
    return hashlib.sha256(data).hexdigest()
