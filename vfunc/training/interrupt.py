"""Handles Ctrl-C: the first signal ends the run after the step, the second one at once."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """Whether the user has asked to stop."""

    def __init__(self) -> None:
        self.requested = False


@contextlib.contextmanager
def noting_interrupts() -> Iterator[StopRequest]:
    """Turn the first SIGINT into a request; a second one raises KeyboardInterrupt as usual.

    Outside the main thread, where signals cannot be handled, nothing is changed.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(signum: int, frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, before)
