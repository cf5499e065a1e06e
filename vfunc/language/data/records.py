"""Reads records, each with its place, from a file or a data set of the Hugging Face Hub.

A file is `.jsonl` (one JSON object a line), `.json` (a list of objects), `.csv` (a header, then a
record a row) or `.txt` (one document, records with the single field `text`), each also gzipped
with `.gz` appended and then read as a stream; or `.parquet`. A Hub id is `ID[:CONFIG[:SPLIT]]`.
What cannot be read is a `UserError` that names the file and the line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.language.data.record_files import SUFFIXES, Place, Record, file_records
from vfunc.language.data.record_hub import HubData, hub_records, open_hub


class Records(Iterator[Record]):
    """The records of a source from a place on, and where the next one begins.

    Attributes:
        source: its name.
    """

    def __init__(
        self, source: str, place: Place | None = None, opened: HubData | None = None
    ) -> None:
        """Open a source; nothing is read before the first record is asked for.

        Args:
            source: a path, or a Hub id.
            place: where to begin; None is the start.
            opened: the data set of the Hub, where it is open; None opens it as a whole.
        """
        self.source = source
        self._place: Place | Callable[[], Place] = place or {}
        self._opened = opened
        self._found = self._records(place or {})

    def _records(
        self, place: Place
    ) -> Iterator[tuple[str, Mapping[str, Any], Place | Callable[[], Place]]]:
        if is_file(self.source):
            return file_records(Path(self.source).expanduser(), place)
        return self._of_hub(place)

    def _of_hub(
        self, place: Place
    ) -> Iterator[tuple[str, Mapping[str, Any], Place | Callable[[], Place]]]:
        opened = self._opened or open_hub(self.source, streaming=False)
        yield from hub_records(self.source, opened, place)

    def __next__(self) -> Record:
        where, record, place = next(self._found)
        self._place = place
        return where, record

    @property
    def place(self) -> Place:
        """Where the next record begins: plain data, for a file."""
        return self._place() if callable(self._place) else self._place


def read_records(source: str) -> Records:
    """The records of a file or of a Hub data set, in order.

    Args:
        source: a path, or a Hub id `ID[:CONFIG[:SPLIT]]` (default split: train).

    Returns:
        An iterator over (where, fields); `where` names file and line, or data set and record.

    Raises:
        UserError: while iterating: missing, unreadable, corrupt or malformed.
    """
    return Records(source)


def is_file(source: str) -> bool:
    """Whether a source names a file: it exists, ends as one, or starts as a path."""
    looks_local = source.endswith(SUFFIXES) or source.startswith(("/", "./", "../", "~"))
    return looks_local or Path(source).exists()


def is_text(source: str) -> bool:
    """Whether a source is a text file, which has no fields of its own."""
    return is_file(source) and source.removesuffix(".gz").endswith(".txt")


def require_unicode(where: str, text: str) -> None:
    """Refuse a text that cannot be written as UTF-8: JSON can name halves of characters.

    Raises:
        UserError: there is such a half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: not valid Unicode ({error.reason}).") from error
