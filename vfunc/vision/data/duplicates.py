"""Finds pictures that are, byte for byte, in two splits or sources, and leaves them in one."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.decoding import File
from vfunc.vision.data.file_sources import LabelledFiles, PictureFiles
from vfunc.vision.data.folder_layouts import Entry
from vfunc.vision.data.vision_data import VisionData

ORDER = ("test", "validation", "held_out", "fit", "feedback", "heads")
"""Which of two splits keeps a picture: the one that comes first."""
_USED = ("heads", "feedback", "held_out", "fit")


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
def sources_apart(sources: Sequence[VisionData]) -> list[VisionData]:
    """Leave out of each source's training pictures what another source is measured on.

    The stream is the first one's: no map of the others is a picture of it either.

    Raises:
        UserError: nothing is left of a role, or of the stream.
    """
    if len(sources) == 1:
        return list(sources)
    stream = sources[0].stream
    used = [file for source in sources for role in _USED for file in _files(source, role)]
    streamed = list(stream.files) if isinstance(stream, PictureFiles) else []
    keys = content_keys([*used, *streamed, *(f for source in sources for f in source.measured)])
    made = []
    for source in sources:
        others = [other for other in sources if other is not source]
        taken = {keys[file] for other in others for file in other.measured}
        kept: dict[str, Any] = {}
        lost: dict[str, int] = {}
        for role in _USED:
            labelled = getattr(source, role)
            if not isinstance(labelled, LabelledFiles):
                continue
            entries = [entry for entry in labelled.entries if keys[entry.image] not in taken]
            if not entries:
                raise UserError(
                    f"{source.summary['source']}: every picture for {role} is one that another "
                    "--feedback is measured on; name parts of your own (train/, test/) in both"
                )
            if len(entries) < len(labelled):
                lost[f"{role}, measured on by another --feedback"] = len(labelled) - len(entries)
                kept[role] = replace(labelled, entries=entries)
        if source is sources[0] and isinstance(stream, PictureFiles):
            maps = frozenset().union(*(other.maps for other in others))
            files = [
                file
                for file in stream.files
                if keys[file] not in taken
                and not (isinstance(file, Path) and maps and file.resolve() in maps)
            ]
            if not files:
                raise UserError(
                    "every picture of the stream is one that a --feedback is measured on, or a map"
                )
            if len(files) < len(stream):
                lost["stream, measured on by another --feedback or its maps"] = len(stream) - len(
                    files
                )
                kept["stream"] = replace(stream, files=files)
        made.append(_with(source, kept, lost))
    return made


def _files(source: VisionData, role: str) -> list[File]:
    labelled = getattr(source, role)
    return [e.image for e in labelled.entries] if isinstance(labelled, LabelledFiles) else []


def _with(source: VisionData, kept: Mapping[str, Any], lost: Mapping[str, int]) -> VisionData:
    if not kept:
        return source
    said = dict(source.summary)
    said["pictures"] = said["pictures"] | {role: len(some) for role, some in kept.items()}
    said["left out"] = said["left out"] | {name: {"count": n} for name, n in lost.items()}
    return replace(source, **kept, summary=said)


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
