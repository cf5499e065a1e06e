"""Files with a seal at their end: the digest of all that comes before it.

The seal is written with the file and moves with it, in one rename. What reads zip archives, as
torch does, looks for their directory from the end and takes no offence at what follows.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from vfunc.storage.digests import digest_of_file

_MARK = b"\nvfunc sha256 "
LENGTH = len(_MARK) + 64 + 1
"""Bytes of a seal."""


def write_sealed(path: Path, write: Callable[[str], object]) -> None:
    """Write a file and its seal.

    Args:
        path: the file.
        write: writes the content to the file of this name.

    Raises:
        OSError: it cannot be written.
    """
    write(str(path))
    digest = digest_of_file(path)
    with path.open("ab") as file:
        file.write(_MARK + digest.encode() + b"\n")


def seal_holds(path: Path) -> bool | None:
    """Whether a file is as it was written; None where it has no seal.

    Raises:
        OSError: it cannot be read.
    """
    end = path.stat().st_size - LENGTH
    if end < 0:
        return None
    with path.open("rb") as file:
        file.seek(end)
        seal = file.read()
    if not (seal.startswith(_MARK) and seal.endswith(b"\n")):
        return None
    return seal[len(_MARK) : -1].decode("ascii", "replace") == digest_of_file(path, end)
