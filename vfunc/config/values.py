"""Checks one option's value: its type, its bounds, its own grammar."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Any, Literal, get_args, get_origin

from beartype.door import is_bearable

from vfunc.config import allowed
from vfunc.config.known import Known
from vfunc.errors import UserError


def nearest(name: str, known: Collection[str]) -> str:
    """`; did you mean X?`, or nothing if nothing is near."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


def listed(text: str) -> tuple[str, ...]:
    """The names of a list with commas between, as the command line has it."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def checked_value(known: Known, value: Any, where: str) -> Any:
    """A value as its option has it, within its bounds.

    Whole numbers become floats, and lists tuples, where those are wanted; an option with a grammar
    of its own may be text.

    Args:
        known: the option.
        value: as given.
        where: the option and where it was given, for messages.

    Raises:
        UserError: the value is not of the option's type, or out of bounds.
    """
    value = _typed(known, value, where)
    check_bounds(known, value, where)
    return value


def type_in_words(known: Known) -> str:
    """What an option's values are: `a whole number`, `one of adamw, sgd`."""
    kind = known.kind
    if known.settings is not None:
        return " or ".join(("true", "false", *known.settings))
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(get_args(kind))
    if get_origin(kind) is tuple:
        if known.said.parse is not None:
            return "names, separated by commas"
        entries = get_args(kind)
        many = "one or more" if entries[-1] is ... else str(len(entries))
        return f"{many} {'names' if entries[0] is str else 'numbers'}"
    if known.said.parse is not None:
        return f"a {kind.__name__.lower()}"
    return {int: "a whole number", float: "a number"}.get(kind, "text")


def check_bounds(known: Known, value: Any, where: str) -> None:
    """Refuse numbers that are not finite or out of the option's bounds, and malformed text.

    Raises:
        UserError: the value is refused; the message says what is allowed.
    """
    said = known.said
    entries = value if isinstance(value, tuple) else (value,)
    for number in entries:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        allowed.check_bounds(where, number, said)
    if said.check is not None:
        said.check(value, where)
    texts = [entry for entry in entries if isinstance(entry, str)]
    if any(not entry.strip() for entry in texts):
        raise UserError(f"{where} is empty")
    for entry in texts:
        try:
            entry.encode()
        except UnicodeEncodeError:  # as the bytes of a file's name become text
            raise UserError(
                f"{where} {entry!a} is not UTF-8, and no file of a run could hold it; rename it"
            ) from None


def _typed(known: Known, value: Any, where: str) -> Any:
    kind, parse = known.kind, known.said.parse
    entries = get_args(kind) if get_origin(kind) is tuple else ()
    if parse is not None and isinstance(value, str):
        return parse(value)
    if entries == (str, ...) and isinstance(value, str):
        value = (value,)
    if isinstance(value, list):
        value = tuple(value)
    if isinstance(value, tuple) and float in entries:
        value = tuple(_as_float(entry) for entry in value)
    elif kind is float:
        value = _as_float(value)
    # beartype takes True for an int, as Python does; nobody who writes `seed = true` means 1
    stray = isinstance(value, bool) and known.settings is None
    stray = stray or (value == () and parse is None)
    if value is None or stray or not is_bearable(value, kind):
        raise UserError(f"{where} must be {type_in_words(known)}, not {value!r}")
    return value


def _as_float(value: Any) -> Any:
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value
