"""Lists the files of a folder in natural order, and keys them to match pictures with labels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from vfunc.errors import UserError
from vfunc.typecheck import typed

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff")
MAPS = (*PICTURES, ".npy")
"""Suffixes of label and depth maps."""


@typed
def natural(path: Path | str) -> list[tuple[int, int, str]]:
    """Sort key for natural order: 2 before 10."""
    pieces = re.split(r"(\d+)", str(path))
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in pieces if p]


@typed
def list_files(folder: Path, suffixes: tuple[str, ...]) -> tuple[list[Path], int]:
    """All files below a folder with one of the suffixes, in natural order, and how many others.

    Links are followed once; hidden files (and what macOS leaves in archives) are others.

    Raises:
        UserError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'is not a folder' if folder.exists() else 'there is no such folder'}"
        )
    found: list[Path] = []
    others = 0
    seen: set[str] = set()

    def refuse(error: OSError) -> None:
        raise UserError(f"{error.filename}: cannot be read ({error.strerror})")

    for where, folders, names in os.walk(folder, followlinks=True, onerror=refuse):
        seen.add(os.path.realpath(where))
        folders[:] = [
            name
            for name in folders
            if not name.startswith((".", "__MACOSX"))
            and os.path.realpath(os.path.join(where, name)) not in seen
        ]
        for name in names:
            if name.lower().endswith(suffixes) and not name.startswith("."):
                found.append(Path(where, name))
            else:
                others += 1
    return sorted(found, key=lambda path: natural(path.relative_to(folder))), others


def by_stem(folder: Path, suffixes: tuple[str, ...]) -> tuple[dict[str, Path], int]:
    """Files by their path below a folder, without the suffix; and how many others there are."""
    files, ignored = list_files(folder, suffixes)
    return keyed(folder, files, None), ignored


def keyed(folder: Path, files: Iterable[Path], mark: str | None) -> dict[str, Path]:
    """Files by their path below a folder, up to the last `mark`, or else without the suffix.

    Raises:
        UserError: two have the same.
    """
    found: dict[str, Path] = {}
    for path in files:
        below = path.relative_to(folder)
        key = str(below.with_suffix("")) if mark is None else str(below).rpartition(mark)[0]
        if key in found:
            raise UserError(f"{path}: {found[key].name} has the same name; keep one of them")
        found[key] = path
    return found
