"""Finds pictures that are, byte for byte, in two splits, and leaves them in one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.decoding import File
from vfunc.vision.data.folder_layouts import Entry

ORDER = ("test", "validation", "held_out", "fit", "feedback", "heads")
"""Which of two splits keeps a picture: the one that comes first."""


@typed
def without_duplicates(
    splits: Mapping[str, Sequence[Entry]],
) -> tuple[dict[str, list[Entry]], dict[str, int]]:
    """Leave out of each split the pictures that are, byte for byte, another split's too.

    Returns:
        The splits, and how many pictures each lost.

    Raises:
        UserError: nothing is left of a split.
    """
    keys = content_keys([entry.image for entries in splits.values() for entry in entries])
    kept: dict[str, list[Entry]] = {}
    seen: set[object] = set()
    for name in (name for name in ORDER if name in splits):
        kept[name] = [entry for entry in splits[name] if keys[entry.image] not in seen]
        seen |= {keys[entry.image] for entry in kept[name]}
        if not kept[name]:
            raise UserError(
                f"every picture for {name} is one of another split too, as {splits[name][0].image}"
                if splits[name]
                else f"there are no pictures for {name}; give more"
            )
    lost = {name: len(splits[name]) - len(entries) for name, entries in kept.items()}
    return {name: kept[name] for name in splits}, {name: n for name, n in lost.items() if n}


@typed
def content_keys(files: Sequence[File]) -> dict[File, tuple[int, str]]:
    """A key a file: equal keys are equal contents. Read are only those of equal length."""
    sizes = {file: _length(file) for file in files}
    shared = Counter(sizes.values())
    return {file: (size, _digest(file) if shared[size] > 1 else "") for file, size in sizes.items()}


def _length(file: File) -> int:
    return file.stat().st_size if isinstance(file, Path) else len(file.data)


def _digest(file: File) -> str:
    data = file.read_bytes() if isinstance(file, Path) else file.data
    return hashlib.sha256(data).hexdigest()
