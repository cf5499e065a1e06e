"""A bound on work that no clock is part of: so many calls of functions, and no more.

A limit of seconds would make a result depend on the machine and on what else it does.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator


class TooManyCalls(BaseException):
    """More calls than were allowed. No `except Exception` on the way takes it for its own."""


@contextlib.contextmanager
def bounded_calls(most: int) -> Iterator[None]:
    """Let this thread call at most so many functions of Python and C in the block.

    Args:
        most: the number of calls.

    Raises:
        TooManyCalls: the block needs more.
    """
    left = most

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal left
        if event in ("call", "c_call"):
            left -= 1
            if left < 0:
                raise TooManyCalls

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield
    finally:
        sys.setprofile(before)
