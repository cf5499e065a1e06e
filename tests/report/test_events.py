from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from vfunc.errors import UserError
from vfunc.report.events import EventLog, read_events

EVENTS = [
    {"kind": "step", "arm": "baseline", "step": 1, "loss": 0.25, "note": None},
    {"kind": "évaluation", "texts": ["a\nb", "#### 5"], "by_k": {"1": [0.5, 0.1]}},
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        for event in EVENTS:
            log.write(event)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    assert read_events(path) == EVENTS
    assert len(path.read_text().splitlines()) == len(EVENTS)


def test_an_event_is_on_disk_when_write_returns(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.write({"step": 1})
    assert read_events(tmp_path / "events.jsonl") == [{"step": 1}]
    log.close()
    log.close()


def test_opening_again_appends(path: Path) -> None:
    with EventLog(str(path)) as log:
        log.write({"step": 2})
    assert read_events(path) == [*EVENTS, {"step": 2}]


def test_numbers_that_json_lacks_are_spelled_out(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with EventLog(path) as log:
        log.write({"a": math.nan, "b": [math.inf, {"c": (-math.inf, 1.5)}], "d": np.float64("nan")})
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == {
        "a": "nan",
        "b": ["inf", {"c": ["-inf", 1.5]}],
        "d": "nan",
    }
    assert math.isnan(float(read_events(path)[0]["a"]))


def test_every_way_to_tear_the_last_line_is_survived(path: Path) -> None:
    content = path.read_bytes()
    first = content.index(b"\n") + 1
    for length in range(first, len(content)):
        path.write_bytes(content[:length])
        whole = length == len(content) - 1  # all but its end of line
        kept = EVENTS if whole else EVENTS[:1]
        assert read_events(path) == kept
        with EventLog(path) as log:
            log.write({"step": 3})
        assert read_events(path) == [*kept, {"step": 3}]


@pytest.mark.parametrize("line", ["{broken", "[1, 2]", "3", ""])
def test_a_malformed_line_is_named(path: Path, line: str) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], line, lines[1]]) + "\n")
    with pytest.raises(UserError, match=r"events\.jsonl, line 2"):
        read_events(path)


def test_a_missing_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere"):
        read_events(tmp_path / "nowhere.jsonl")
    (tmp_path / "empty.jsonl").touch()
    assert read_events(tmp_path / "empty.jsonl") == []


def test_what_json_cannot_hold_is_refused_and_leaves_no_trace(path: Path) -> None:
    with EventLog(path) as log, pytest.raises(TypeError):
        log.write({"good": 1, "bad": object()})
    assert read_events(path) == EVENTS


def test_a_full_disk_passes_through_and_leaves_whole_lines(path: Path) -> None:
    class Full:
        """A file on a disk with room for three bytes more."""

        def __init__(self, file) -> None:
            self.file, self.room = file, 3

        def write(self, data: bytes) -> int:
            if not self.room:
                raise OSError(28, "No space left on device")
            written = self.file.write(data[: self.room])
            self.room -= written
            return written

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    with EventLog(path) as log:
        log._file = Full(log._file)
        with pytest.raises(OSError, match="No space"):
            log.write({"step": 9})
    assert read_events(path) == EVENTS
    assert path.read_bytes().endswith(b"}\n")


def test_a_short_write_is_completed(tmp_path: Path) -> None:
    class Slow:
        def __init__(self, file) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            return self.file.write(data[:2])

        def __getattr__(self, name: str):
            return getattr(self.file, name)

    with EventLog(tmp_path / "events.jsonl") as log:
        log._file = Slow(log._file)
        log.write({"step": 12345})
    assert read_events(tmp_path / "events.jsonl") == [{"step": 12345}]
