"""Declaring an option: a field of a frozen dataclass that knows its meaning and its bounds."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """What there is to say of an option beyond its name and type.

    Attributes:
        help: what it does, with its unit.
        default: its default in words, for `--help`; "" if the help says it.
        metavar: placeholder of the value; None takes it from the type.
        above: values must be above this.
        least: values must be at least this.
        below: values must be below this.
        most: values must be at most this.
    """

    help: str
    default: str = ""
    metavar: str | None = None
    above: float | int | None = None
    least: float | int | None = None
    below: float | int | None = None
    most: float | int | None = None


def option(help: str, *, default: Any = dataclasses.MISSING, shown: str | None = None, **more: Any):
    """Declare an option; without `default`, `shown` tells what its default depends on."""
    if shown is None:
        shown = _in_words(default)
    return dataclasses.field(default=default, metadata={"option": Option(help, shown, **more)})


def _in_words(default: object) -> str:
    if isinstance(default, bool):
        return "yes" if default else "no"
    if isinstance(default, float):
        return f"{default:g}"
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def option_of(field: dataclasses.Field) -> Option:
    """The option that a field of a group declares."""
    return field.metadata["option"]
