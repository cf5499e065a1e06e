"""Gives large arrays a place: in memory up to a limit, beyond it in files without a name."""

from __future__ import annotations

import math
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.storage.cache_folder import cache_folder

GIB = 2**30
_BLOCK = 2**24
_NUMPY = {
    torch.uint8: np.uint8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
    torch.float32: np.float32,
    torch.float64: np.float64,
}


class Overflow:
    """A limit that the arrays of a run share.

    What is beyond it lies in a file that has no name: it is gone with the array, however the run
    ends. Its pages are read and written back as the system sees fit, and are no memory of the
    process's own.

    Args:
        limit: bytes that arrays may take in memory, all together.
        folder: where files go; None is `cache_folder()`.
    """

    def __init__(self, limit: float, folder: Path | None = None) -> None:
        self.limit = limit
        self.used = 0
        self._folder = folder

    def room(
        self,
        shape: Sequence[int],
        dtype: torch.dtype,
        what: str,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """An array of zeros or of anything: write before you read.

        Args:
            shape: its shape.
            dtype: uint8, or a signed integer or a floating-point type of numpy's.
            what: what it holds, for messages.
            device: where it is put if it fits below the limit; a file's is on the CPU.

        Raises:
            UserError: it has to lie in a file, and there is no space for one.
        """
        size = math.prod(shape) * dtype.itemsize
        if self.used + size <= self.limit:
            made = torch.empty(tuple(shape), dtype=dtype, device=device)
            self.used += size
            weakref.finalize(made, self._released, size)
            return made
        folder = self._folder or cache_folder()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder) as file:
                # now, and not in the midst of a write to memory, which no program survives
                _reserve(file.fileno(), size)
                mapped = np.memmap(file, _NUMPY[dtype], "r+", shape=tuple(shape))
        except OSError as error:
            raise UserError(
                f"{size / GIB:.1f} GiB of {what} are beyond the {self.limit / GIB:.1f} GiB that "
                f"are kept in memory, and {folder} cannot hold them "
                f"({error.strerror or error}): free some there, name another folder by "
                "VFUNC_CACHE, raise --in-memory, or take fewer pictures"
            ) from error
        return torch.from_numpy(mapped)

    def _released(self, size: int) -> None:
        self.used -= size


def _reserve(file: int, size: int) -> None:
    """Make a file that long, its space on the disk taken."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file, 0, max(1, size))
        return
    zeros = bytes(_BLOCK)
    for at in range(0, max(1, size), _BLOCK):
        os.write(file, zeros[: min(_BLOCK, max(1, size) - at)])
