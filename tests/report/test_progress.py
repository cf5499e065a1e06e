from __future__ import annotations

import io
import math

import pytest

from vfunc.errors import UserError
from vfunc.report.progress import Progress, Status, progress

STATUS = Status(210, 9123.0, 0.4123, 0.0589, 1.2e-3, 0.31)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


def run(stream: io.StringIO, updates: int = 200, **options) -> list[str]:
    with progress("mine", stream=stream, **options) as display:
        for step in range(1, updates + 1):
            display.update(step / updates, Status(step))
    return stream.getvalue().splitlines()


def test_a_line_stands_by_itself() -> None:
    stream, clock = io.StringIO(), Clock()
    with progress("vpretraining", stream=stream, clock=clock) as display:
        clock.time += 40
        display.update(0.25, STATUS)
    assert stream.getvalue() == (
        "vpretraining:  25 % · step 210 · 9.1k tokens/s · loss 0.4123 · held-out 0.0589 · "
        "value +1.20e-03 · gate 0.310 · 00:40, 02:00 left\n"
    )


def test_a_vision_arm_counts_images_and_shows_what_its_mask_keeps() -> None:
    stream = io.StringIO()
    status = Status(3, images_per_second=512.0, loss=2.5, value=1e-3, kept=0.6)
    with progress("vpretraining", stream=stream) as display:
        display.update(0.5, status)
    shown = "step 3 · 512 images/s · loss 2.5000 · value +1.00e-03 · kept 0.600 · 00:00"
    assert shown in stream.getvalue()


def test_what_is_not_known_is_not_shown() -> None:
    stream = io.StringIO()
    with progress("baseline", stream=stream) as display:
        display.update(0.5, Status(3, loss=0.5))
    assert "step 3 · loss 0.5000 · 00:00" in stream.getvalue()
    for absent in ("tokens/s", "images/s", "held-out", "value", "gate", "kept", "None"):
        assert absent not in stream.getvalue()


@pytest.mark.parametrize("updates", [16, 200, 10_000])
def test_a_run_has_about_as_many_lines_as_asked_for(updates: int) -> None:
    lines = run(io.StringIO(), updates)
    assert 15 <= len(lines) <= 17
    assert "100 %" in lines[-1]
    assert f"step {updates:,}" in lines[-1]
    assert 4 <= len(run(io.StringIO(), updates, lines=4)) <= 6
    assert len(run(io.StringIO(), 3)) == 3


def test_time_left_counts_from_where_a_resumed_run_began() -> None:
    stream, clock = io.StringIO(), Clock()
    with progress("a", start=0.5, stream=stream, clock=clock) as display:
        display.update(0.5, Status(0))
        clock.time += 10
        display.update(0.75, Status(1))
    first, second = stream.getvalue().splitlines()
    assert first.endswith("00:00, ? left")
    assert second.endswith("00:10, 00:10 left")


def test_a_run_that_breaks_off_says_where() -> None:
    stream = io.StringIO()
    with pytest.raises(KeyboardInterrupt), progress("a", stream=stream) as display:
        display.update(0.5, Status(50))
        display.update(0.51, Status(51))
        raise KeyboardInterrupt
    assert "step 51" in stream.getvalue().splitlines()[-1]


def test_a_budget_may_be_overspent() -> None:
    for stream in (io.StringIO(), Terminal()):
        with progress("a", stream=stream) as display:
            display.update(1.02, Status(5))
        assert "step 5" in stream.getvalue()
        assert "-" not in stream.getvalue()


def test_messages_are_printed_in_both() -> None:
    for stream in (io.StringIO(), Terminal()):
        with progress("a", stream=stream) as display:
            display.update(0.1, Status(1))
            display.message("checkpoint written")
        assert "checkpoint written\n" in stream.getvalue()


@pytest.mark.parametrize("fails", [False, True])
def test_the_live_display_leaves_the_cursor_at_the_start_of_a_new_line(fails: bool) -> None:
    stream = Terminal()
    try:
        with progress("vpretraining", stream=stream) as display:
            for tenth in range(1, 11):
                display.update(tenth / 10, STATUS)
                if fails and tenth == 5:
                    raise ZeroDivisionError
    except ZeroDivisionError:
        assert fails
    shown, row, column = screen(stream.getvalue())
    last = "50%" if fails else "100%"
    assert shown[0].startswith(f"vpretraining  {last}" if fails else f"vpretraining {last}")
    assert "step 210 · 9.1k tokens/s" in shown[0]
    assert row == 1
    assert column == 0
    assert not "".join(shown[1:]).strip()


def test_the_live_display_shows_all_figures_in_two_lines(monkeypatch) -> None:
    monkeypatch.setattr("vfunc.report.progress._FASTEST", 0.0)
    stream = Terminal()
    with progress("vpretraining", stream=stream) as display:
        display.update(0.42, STATUS)
        shown, _, _ = screen(stream.getvalue())
    assert "42%" in shown[0]
    assert "left" in shown[0]
    assert shown[1].strip() == "loss 0.4123 · held-out 0.0589 · value +1.20e-03 · gate 0.310"


def screen(text: str) -> tuple[list[str], int, int]:
    """What a terminal shows after these characters, and where its cursor is."""
    lines: list[str] = [""]
    row = column = 0
    position = 0
    while position < len(text):
        if text.startswith("\x1b[A", position):
            row, position = max(0, row - 1), position + 3
            continue
        character = text[position]
        position += 1
        if character == "\r":
            column = 0
        elif character == "\n":
            row += 1
            column = 0
            lines += [""] * (row + 1 - len(lines))
        else:
            line = lines[row].ljust(column)
            lines[row] = line[:column] + character + line[column + 1 :]
            column += 1
    return lines, row, column


def test_bad_input_is_refused() -> None:
    for start in (-0.1, math.nan):
        with pytest.raises(UserError, match="progress"):
            progress("a", start=start, stream=io.StringIO())
    with pytest.raises(UserError, match="0 lines"):
        progress("a", lines=0, stream=io.StringIO())
    for stream in (io.StringIO(), Terminal()):
        with progress("a", stream=stream) as display, pytest.raises(UserError):
            display.update(math.nan, Status(1))
    live = progress("a", stream=Terminal())
    assert isinstance(live, Progress)
    with pytest.raises(UserError, match="with"):
        live.update(0.5, Status(1))
