"""Shows the progress of a run: a live display on a terminal, else plain lines.

Progress is the share of the budget that is spent, since a budget may count steps, tokens or
seconds; the time left follows from it.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, cast, runtime_checkable

from tqdm import tqdm

from vfunc.errors import UserError
from vfunc.report.table import si
from vfunc.typecheck import typed

_FASTEST = 0.1  # seconds between two refreshes of the live display


@dataclass(frozen=True)
class Status:
    """The state of an arm. A figure that is not known yet or does not apply is None, not shown.

    Attributes:
        step: learner steps taken.
        tokens_per_second: recent speed.
        loss: the learner's own loss.
        heldout_loss: held-out loss of the last evaluation.
        value: predicted decrease of the feedback loss.
        gate: mean gate alpha over predicted tokens, 0 to 1.
        kept: mean share of a view that a mask keeps, 0 to 1.
        images_per_second: recent speed.
    """

    step: int
    tokens_per_second: float | None = None
    loss: float | None = None
    heldout_loss: float | None = None
    value: float | None = None
    gate: float | None = None
    kept: float | None = None
    images_per_second: float | None = None


@runtime_checkable
class Stream(Protocol):
    """A text stream that progress is written to: a terminal, a file or a substitute."""

    def write(self, text: str, /) -> object:
        """Write text."""
        ...

    def flush(self) -> None:
        """Flush what was written."""
        ...

    def isatty(self) -> bool:
        """Whether it is a terminal."""
        ...


@runtime_checkable
class Progress(Protocol):
    """The progress of one arm, for use in a `with` statement."""

    def __enter__(self) -> Progress:
        """Begin to show."""
        ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was, whatever happened."""
        ...

    def update(self, fraction: float, status: Status) -> None:
        """Show where the arm stands, `fraction` of its budget being spent."""
        ...

    def message(self, line: str) -> None:
        """Print a line of text without disturbing the display."""
        ...


@typed
def progress(
    arm: str,
    *,
    start: float | int = 0.0,
    stream: Stream | None = None,
    lines: int = 15,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """The display for one arm: live if the stream is a terminal, else plain lines.

    Args:
        arm: the arm's name.
        start: the share of the budget spent before (by a run that is resumed), 0 to 1.
        stream: the stream; standard error by default.
        lines: approximate number of plain lines for an arm.
        clock: the time in seconds, for the time left in plain lines.

    Returns:
        The display, to be entered with `with`.

    Raises:
        UserError: a start outside [0, 1], or less than one line.
    """
    _check_fraction(start)
    if lines < 1:
        raise UserError(f"progress in {lines} lines: at least 1 is needed.")
    stream = cast("Stream", sys.stderr) if stream is None else stream  # never None in a run
    if stream.isatty():
        return _Live(arm, float(start), _Lasting(stream))
    return _Lines(arm, float(start), _Lasting(stream), lines, clock)


class _Lasting:
    """A stream that may go away: a closed terminal does not end a run before it is saved."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def write(self, text: str, /) -> object:
        with contextlib.suppress(OSError):
            return self._stream.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)  # tqdm asks for its encoding and width


class _Live:
    """A bar, and a line of figures below it."""

    def __init__(self, arm: str, start: float, stream: Stream) -> None:
        self._arm, self._start, self._stream = arm, start, stream
        self._bar: tqdm | None = None
        self._figures: tqdm | None = None

    def __enter__(self) -> _Live:
        shared = {
            "file": self._stream,
            "dynamic_ncols": True,
            "mininterval": _FASTEST,
            "miniters": 0,
        }
        # The time left is taken from the mean rate (smoothing 0): evaluations make the pace uneven.
        self._bar = tqdm(
            total=1.0,
            initial=self._start,
            desc=self._arm,
            smoothing=0,
            position=0,
            unit="",
            bar_format="{desc} {percentage:3.0f}% |{bar}| {unit}{elapsed}, {remaining} left",
            **shared,
        )
        self._figures = tqdm(position=1, leave=False, bar_format="  {desc}", **shared)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        figures, bar = self._figures, self._bar
        self._figures = self._bar = None
        try:
            if figures is not None:
                figures.close()
        finally:
            if bar is not None:
                bar.refresh()
                bar.close()

    def update(self, fraction: float, status: Status) -> None:
        _check_fraction(fraction)
        if self._bar is None or self._figures is None:
            raise UserError("progress is shown inside its `with` statement only.")
        pace, figures = _texts(status)
        # In the unit's place, since tqdm puts a comma before every postfix.
        self._bar.unit = " · ".join([*pace, ""])
        self._bar.update(min(fraction, 1.0) - self._bar.n)
        self._figures.set_description_str(" · ".join(figures), refresh=False)
        self._figures.update(0)

    def message(self, line: str) -> None:
        tqdm.write(line, file=self._stream)


class _Lines:
    """Lines that each stand by themselves, at equal shares of the budget."""

    def __init__(
        self, arm: str, start: float, stream: Stream, lines: int, clock: Callable[[], float]
    ) -> None:
        self._arm, self._start, self._stream = arm, start, stream
        self._lines, self._clock = lines, clock
        self._began = clock()
        self._shown = -1
        self._held: tuple[float, Status] | None = None

    def __enter__(self) -> _Lines:
        self._began = self._clock()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._held is not None:  # where the arm ended or broke off
            self._print(*self._held)

    def update(self, fraction: float, status: Status) -> None:
        _check_fraction(fraction)
        mark = math.floor(fraction * self._lines + 1e-9)
        if mark > self._shown:
            self._shown = mark
            self._print(fraction, status)
        else:
            self._held = fraction, status

    def message(self, line: str) -> None:
        print(line, file=self._stream, flush=True)

    def _print(self, fraction: float, status: Status) -> None:
        self._held = None
        elapsed = self._clock() - self._began
        spent = fraction - self._start
        left = tqdm.format_interval(elapsed * max(0.0, 1 - fraction) / spent) if spent > 0 else "?"
        pace, figures = _texts(status)
        texts = [f"{100 * fraction:3.0f} %", *pace, *figures]
        texts.append(f"{tqdm.format_interval(elapsed)}, {left} left")
        print(f"{self._arm}: " + " · ".join(texts), file=self._stream, flush=True)


def _texts(status: Status) -> tuple[list[str], list[str]]:
    """Pace and figures of an arm, in words."""
    pace = [f"step {status.step:,}"]
    rates = {"tokens": status.tokens_per_second, "images": status.images_per_second}
    pace += [f"{si(rate)} {unit}/s" for unit, rate in rates.items() if rate is not None]
    figures = [
        f"{name} {number:{form}}"
        for name, number, form in (
            ("loss", status.loss, ".4f"),
            ("held-out", status.heldout_loss, ".4f"),
            ("value", status.value, "+.2e"),
            ("gate", status.gate, ".3f"),
            ("kept", status.kept, ".3f"),
        )
        if number is not None
    ]
    return pace, figures


def _check_fraction(fraction: float) -> None:
    if not fraction >= 0:
        raise UserError(f"progress {fraction}: the share of the budget spent starts at 0.")
