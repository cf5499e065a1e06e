"""Writes and reads the event log of a run: one JSON object a line, in order.

A line is written whole and at once, so that a crash can tear the last line alone; reading leaves
a torn line out, and opening the log to go on removes it. JSON knows no nan and no infinity: they
are written as the strings "nan", "inf" and "-inf", which Python's `float` reads.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vfunc.errors import UserError
from vfunc.typecheck import typed


class EventLog:
    """An append-only writer of events, for use in a `with` statement.

    Every event is with the operating system when `write` returns. Where it cannot be (a full disk),
    the OSError passes through and the log is left without the part of it that was written.
    """

    @typed
    def __init__(self, path: Path | str) -> None:
        """Open a log, new or existing; the directory must exist.

        Args:
            path: the file. What it holds is kept, save for a torn last line.

        Raises:
            OSError: it cannot be opened or mended.
        """
        self.path = Path(path)
        self._file = self.path.open("ab", buffering=0)
        try:
            self._end_last_line()
        except BaseException:
            self._file.close()
            raise

    @typed
    def write(self, event: Mapping[str, Any]) -> None:
        """Append one event.

        Args:
            event: names and plain values (numbers, text, None, lists and mappings of them).

        Raises:
            TypeError: a value that JSON cannot hold (a tensor: pass `.item()`).
            OSError: it cannot be written.
        """
        self._append(_line(_explicit(event)))

    def close(self) -> None:
        """Close the file; closing twice does nothing."""
        self._file.close()

    def __enter__(self) -> EventLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _append(self, data: bytes) -> None:
        start = self._file.seek(0, os.SEEK_END)
        written = 0
        try:
            while written < len(data):  # an unbuffered write may take a part only
                written += self._file.write(data[written:])
        except BaseException:
            self._file.truncate(start)
            raise

    def _end_last_line(self) -> None:
        content = self.path.read_bytes()
        last = content.rpartition(b"\n")[2]
        if not last:
            return
        if _parse(last) is None:
            self._file.truncate(len(content) - len(last))
        else:
            self._append(b"\n")


@typed
def read_events(path: Path | str) -> list[dict[str, Any]]:
    """Read an event log.

    Args:
        path: the file.

    Returns:
        The events in order. A last line that a crash has torn is left out.

    Raises:
        UserError: there is no such file, or a line other than a torn last one is no JSON object.
    """
    return [event for _, event in read_lines(path)]


@typed
def read_lines(path: Path | str) -> list[tuple[bytes, dict[str, Any]]]:
    """The same, each event with its line as it stands in the file, end included."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no event log there.")
    *lines, last = path.read_bytes().split(b"\n")
    events = []
    for number, line in enumerate(lines, 1):
        event = _parse(line)
        if event is None:
            raise UserError(f"{path}, line {number}: not a JSON object; mend or remove that line.")
        events.append((line + b"\n", event))
    unfinished = _parse(last)
    return events if unfinished is None else [*events, (last + b"\n", unfinished)]


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:  # malformed JSON, or bytes that are no UTF-8
        return None
    return event if isinstance(event, dict) else None


def _line(event: Any) -> bytes:
    """An event as a line of UTF-8; a name that is no text is escaped."""
    line = json.dumps(event, allow_nan=False, ensure_ascii=False)
    try:
        return line.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(event, allow_nan=False).encode() + b"\n"


def _explicit(value: Any) -> Any:
    """The same value with every nan and infinity spelled out."""
    if isinstance(value, Mapping):
        return {name: _explicit(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_explicit(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(float(value))
    return value
