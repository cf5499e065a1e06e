"""Opens every picture and map of a run once, before anything is trained on them."""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image

from vfunc.errors import UserError
from vfunc.vision.data.decoding import File, decode_in_threads, is_array, load_array
from vfunc.vision.data.folder_layouts import Entry
from vfunc.vision.data.pictures import rgb

BadFiles = Literal["refuse", "skip"]

UNREADABLE = "files that cannot be read"
"""What a summary calls the files that were left out."""

_NAMED = 3
_THREADS = 8
_CHUNK = 64
_EVERY = 10.0  # seconds between two lines of progress

_sound: set[tuple[str, int, int]] = set()  # path, length and time of change of what was opened


@dataclass(frozen=True)
class Opened:
    """What opening files found.

    Attributes:
        bad: why a file cannot be read, by file.
        count: number of files that were opened.
    """

    bad: dict[File, str]
    count: int


def open_all(images: Iterable[File], maps: Iterable[File] = ()) -> Opened:
    """Decode files, in threads; a large JPEG at an eighth of its size, which reads all of its data.

    What was found sound is not opened again while the process lives, unless it has changed. Says
    on standard error how far it is where it takes long.

    Args:
        images: pictures.
        maps: label and depth maps.
    """
    work: dict[tuple[File, bool], None] = dict.fromkeys(
        [*((file, True) for file in images), *((file, False) for file in maps)]
    )
    left = [job for job in work if (key := _key(*job)) is None or key not in _sound]
    bad: dict[File, str] = {}
    began = told = time.monotonic()
    threads = min(_THREADS, os.cpu_count() or 1)
    # Python's warning filters are the process's: set once, outside of the threads
    with warnings.catch_warnings(), ThreadPoolExecutor(threads) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, len(left), _CHUNK):
            jobs = left[start : start + _CHUNK]
            faults = list(pool.map(lambda job: _fault(*job), jobs))
            for (file, image), fault in zip(jobs, faults, strict=True):
                if fault is not None:
                    bad[file] = fault
                elif (key := _key(file, image)) is not None:
                    _sound.add(key)
            now = time.monotonic()
            if now - told > _EVERY:
                told = now
                done = start + len(jobs)
                minutes = (now - began) / done * (len(left) - done) / 60
                line = f"opening pictures: {done:,} of {len(left):,}, {minutes:.0f} min to go"
                print(line, file=sys.stderr, flush=True)
    return Opened(bad, len(work))


def sound_entries(
    entries: Sequence[Entry], fields: Sequence[str], bad_files: BadFiles
) -> tuple[list[Entry], dict[str, Any]]:
    """The labelled pictures that can be read, with all the maps that are asked for.

    Args:
        entries: labelled pictures.
        fields: which of their maps are used.
        bad_files: whether to refuse those that cannot be read, or to leave them out.

    Returns:
        The entries, and for a summary the files that were left out.

    Raises:
        UserError: files cannot be read, and they are not skipped; the first are named.
    """
    maps = [f for e in entries for f in _maps(e, fields)]
    opened = open_all([entry.image for entry in entries], maps)
    left_out = _left_out(opened, bad_files)
    kept = [e for e in entries if not {e.image, *_maps(e, fields)} & opened.bad.keys()]
    return kept, left_out


def sound_pictures(files: Sequence[File], bad_files: BadFiles) -> tuple[list[File], dict[str, Any]]:
    """The unlabeled pictures that can be read; see `sound_entries`."""
    opened = open_all(files)
    left_out = _left_out(opened, bad_files)
    return [file for file in files if file not in opened.bad], left_out


def _left_out(opened: Opened, bad_files: BadFiles) -> dict[str, Any]:
    if not opened.bad:
        return {}
    if bad_files == "skip":
        names = [str(file) for file in opened.bad]
        return {UNREADABLE: {"count": len(names), "first": names[:_NAMED]}}
    faults = list(opened.bad.values())
    more = f"; and {len(faults) - _NAMED} more" if len(faults) > _NAMED else ""
    raise UserError(
        f"{'; '.join(faults[:_NAMED])}{more}: {len(faults)} of {opened.count} files cannot be "
        "read; mend them, or give --bad-files skip to go on without them"
    )


def _maps(entry: Entry, fields: Sequence[str]) -> list[File]:
    found = (getattr(entry, field) for field in fields if field in ("segmentation", "depth"))
    return [file for file in found if file is not None]


def _key(file: File, image: bool) -> tuple[str, int, int] | None:
    if not isinstance(file, Path):
        return None
    try:
        status = file.stat()
    except OSError:
        return None
    return f"{image} {file.absolute()}", status.st_size, status.st_mtime_ns


def _fault(file: File, image: bool) -> str | None:
    """Why a file cannot be read, or None."""
    try:
        if is_array(file):
            load_array(file)
        else:
            decode_in_threads(file, _read_image if image else _read_map)
    except UserError as error:
        return str(error)
    return None


def _read_image(picture: Image.Image) -> None:
    picture.draft("RGB", (max(1, picture.width // 8), max(1, picture.height // 8)))
    rgb(picture)


def _read_map(picture: Image.Image) -> None:
    picture.load()
