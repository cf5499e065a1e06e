"""Reads which characters of a record's text are known to be mistaken: its field of spans."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from vfunc.errors import UserError
from vfunc.typecheck import typed

Spans = tuple[tuple[int, int], ...]


@typed
def read_spans(where: str, value: Any, text: str, *, remedy: str) -> Spans:
    """Half-open spans of characters, in order; one may end behind the text, whose end is wrong too.

    Args:
        where: the record's place and the field, for messages.
        value: what the field holds: a list of [START, END], or nothing.
        text: the text that they are spans of.
        remedy: what to do where the field holds something else.

    Raises:
        UserError: not such a list, or spans that are reversed, empty, out of range or overlap.
    """
    if value is None:
        return ()
    if isinstance(value, str | bytes) or not isinstance(value, Sequence):
        raise UserError(
            f"{where}: expected spans [[START, END], ...], got {_said(value)}; {remedy}"
        )
    spans = sorted(_span(where, span, len(text), remedy) for span in value)
    for before, after in itertools.pairwise(spans):
        if after[0] < before[1]:
            raise UserError(
                f"{where}: the spans {list(before)} and {list(after)} overlap; join them"
            )
    return tuple(spans)


def _span(where: str, span: Any, length: int, remedy: str) -> tuple[int, int]:
    numbers = list(span) if isinstance(span, Sequence) else []
    if len(numbers) != 2 or not all(type(number) is int for number in numbers):
        raise UserError(f"{where}: a span is two whole numbers, not {_said(span)}; {remedy}")
    start, end = numbers
    if start >= end:
        raise UserError(
            f"{where}: the span {list(span)} ends before it has a character; write [START, END] "
            "with END after START"
        )
    if start < 0 or end > length + 1:  # the end of the text counts as one more character
        raise UserError(
            f"{where}: the span {list(span)} is out of range: the text has {length} characters, "
            f"and its end is [{length}, {length + 1}]"
        )
    return start, end


def _said(value: Any) -> str:
    return f"{type(value).__name__} {str(value)[:40]!r}"
