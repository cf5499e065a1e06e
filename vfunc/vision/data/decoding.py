"""Decodes a picture from a file or its bytes, with every failure an error of one line."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from vfunc.errors import UserError

_T = TypeVar("_T")


@dataclass(frozen=True, eq=False)
class Encoded:
    """A picture's file in memory.

    Attributes:
        data: the file's bytes.
        name: the file's name, for messages.
    """

    data: bytes = field(repr=False)
    name: str

    def __str__(self) -> str:
        return self.name


File = Path | Encoded


def is_array(file: File) -> bool:
    """Whether a file is an array of numpy's, by its name."""
    return str(file).lower().endswith(".npy")


class RefusedError(Exception):
    """A fault of a picture; whoever catches it adds the file's name."""


@contextmanager
def _opened(file: File) -> Iterator[BinaryIO]:
    if isinstance(file, Encoded):
        if not file.data:
            raise UserError(f"{file}: is empty")
        yield BytesIO(file.data)
        return
    if not file.is_file():
        raise UserError(f"{file}: {'is not a file' if file.exists() else 'there is no such file'}")
    try:
        if not file.stat().st_size:
            raise UserError(f"{file}: is empty")
        with file.open("rb") as stream:
            yield stream
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error


def decode(file: File, read: Callable[[Image.Image], _T]) -> _T:
    """Open a picture and read it; Pillow's warnings do not leak.

    In a thread beside the main one they are left to `quieten_pillow`: Python's warning filters are
    the process's.

    Raises:
        UserError: it cannot be opened or read, or `read` raises `RefusedError`.
    """
    if threading.current_thread() is not threading.main_thread():
        return decode_in_threads(file, read)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return decode_in_threads(file, read)


def quieten_pillow() -> None:
    """Hide Pillow's warnings, in all threads, from now on."""
    warnings.filterwarnings("ignore", module=r"PIL\b")


def decode_in_threads(file: File, read: Callable[[Image.Image], _T]) -> _T:
    """Does what `decode` does, without its hold on warnings, which is the whole process's.

    Raises:
        UserError: as `decode`.
    """
    with _opened(file) as stream:
        try:
            with Image.open(stream) as picture:
                return read(picture)
        except RefusedError as error:
            raise UserError(f"{file}: {error}") from error
        except UnidentifiedImageError as error:
            raise UserError(f"{file}: is no picture in a known format, or is corrupt") from error
        except Image.DecompressionBombError as error:
            raise UserError(f"{file}: has too many pixels to be read; make it smaller") from error
        except Exception as error:
            # Codecs raise OSError, SyntaxError, struct.error and more on damaged files.
            said = " ".join(str(error).split()) or type(error).__name__
            message = f"{file}: cannot be decoded, it is corrupt or cut off ({said})"
            raise UserError(message) from error


def load_array(file: File, mapped: bool = False) -> np.ndarray:
    """Load a map from a `.npy` file; `mapped` reads no more than its head at first.

    Raises:
        UserError: no such array, or not two-dimensional.
    """
    with _opened(file) as stream:
        try:
            source = file if mapped and isinstance(file, Path) else stream
            array = np.load(source, mmap_mode="r" if source is file else None, allow_pickle=False)
        except Exception as error:
            # numpy raises ValueError, EOFError or OSError, by where the file ends.
            raise UserError(f"{file}: is no .npy array, or is cut off") from error
    if array.ndim != 2 or not array.size:
        raise UserError(f"{file}: has shape {array.shape}; a map has a height and a width")
    return array
