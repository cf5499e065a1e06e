"""Handles Ctrl-C, SIGTERM and SIGHUP: the first ends the run after the step, the second at once.

SLURM and Kubernetes send SIGTERM before they kill, a terminal that is closed sends SIGHUP.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

ENDING = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals beside Ctrl-C that ask a process to end; Windows lacks the second."""


class Interrupted(KeyboardInterrupt):
    """The user, or what runs the process, has asked it to end.

    Attributes:
        signum: the signal.
    """

    def __init__(self, message: str = "", signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.signum = signum

    def __str__(self) -> str:
        return str(self.args[0])


class StopRequest:
    """Whether there was a request to stop, and by which signal."""

    def __init__(self) -> None:
        self.signum: int | None = None

    @property
    def requested(self) -> bool:
        """Whether to stop after the step."""
        return self.signum is not None

    def raised(self, message: str) -> Interrupted:
        """What ends the run."""
        return Interrupted(message, self.signum or signal.SIGINT)


@contextlib.contextmanager
def noting_interrupts() -> Iterator[StopRequest]:
    """Turn the first signal into a request; a second one raises `Interrupted` at once.

    Outside the main thread, where signals cannot be handled, nothing is changed; nor is a signal
    that the process was told to ignore (`nohup`).
    """
    request = StopRequest()

    def note(signum: int, frame: FrameType | None) -> None:
        if request.requested:
            raise Interrupted(signum=signum)
        request.signum = signum

    with _handling((signal.SIGINT,), note, ignored=True), _handling(ENDING, note):
        yield request


@contextlib.contextmanager
def ending_at_once() -> Iterator[None]:
    """Where no step is under way, SIGTERM and SIGHUP raise `Interrupted`, as Ctrl-C does."""

    def end(signum: int, frame: FrameType | None) -> None:
        raise Interrupted(signum=signum)

    with _handling(ENDING, end):
        yield


@contextlib.contextmanager
def _handling(
    signals: tuple[int, ...],
    handler: Callable[[int, FrameType | None], Any],
    *,
    ignored: bool = False,
) -> Iterator[None]:
    """Handle signals for a while; those that are ignored only if `ignored`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {s: signal.getsignal(s) for s in signals}
    before = {s: h for s, h in before.items() if ignored or h is not signal.SIG_IGN}
    try:
        for signum in before:
            signal.signal(signum, handler)
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, signal.SIG_DFL if old is None else old)
