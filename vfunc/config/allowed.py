"""Refuses values of declared options that are of another type or out of their bounds."""

from __future__ import annotations

import dataclasses
import functools
import math
from types import NoneType, UnionType
from typing import Any, Literal, Union, cast, get_args, get_origin, get_type_hints

from vfunc.config.declared import Option, declaration
from vfunc.errors import UserError

LARGEST = 2**63 - 1
"""The largest whole number that torch, and a TOML file, hold."""

_WORDS = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}


def check_fields(instance: object) -> None:
    """Check every declared field of a dataclass, as its `__post_init__` does.

    Raises:
        UserError: the first value that its declaration refuses; an option that is named
            otherwise than its field is called both.
    """
    hints = _hints(type(instance))
    for field in dataclasses.fields(cast("Any", instance)):  # a dataclass
        declared = declaration(field)
        if declared.variants is None:
            flag = declared.name and "--" + declared.name.replace("_", "-")
            name = f"{field.name} ({flag})" if flag else field.name
            check_value(name, getattr(instance, field.name), hints[field.name], declared)


def check_value(name: str, value: Any, hint: Any, declared: Option) -> None:
    """Check one value.

    Args:
        name: the option, for messages.
        value: its value; None passes where the type allows it.
        hint: its type; only plain types, `Literal` and None are looked at.
        declared: its bounds.

    Raises:
        UserError: the value is refused; the message says what is allowed.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if value is None and NoneType in kinds:
        return
    plain = [kind for kind in kinds if kind is not NoneType]
    if len(plain) == 1:
        _check_type(name, value, plain[0])
    if isinstance(value, int | float) and not isinstance(value, bool):
        check_bounds(name, value, declared)


def _check_type(name: str, value: Any, kind: Any) -> None:
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            known = ", ".join(map(str, get_args(kind)))
            raise UserError(f"unknown {name} {value!r}; known: {known}")
    elif kind in _WORDS:
        wide = (int, float) if kind is float else kind
        # True is an int for Python; nobody who writes it means 1
        stray = isinstance(value, bool) and kind is not bool
        if stray or not isinstance(value, wide):
            raise UserError(f"{name} must be {_WORDS[kind]}, not {value!r}")


def check_bounds(name: str, number: float | int, declared: Option) -> None:
    """Check that a number is finite and within the bounds of its option.

    Args:
        name: the option, for messages.
        number: its value.
        declared: its bounds.

    Raises:
        UserError: it is not; the message says what is allowed.
    """
    if isinstance(number, int) and abs(number) > LARGEST:
        raise UserError(f"{name} must be at most {LARGEST} in size, not {number}")
    bounds = (
        ("above", declared.above, declared.above is None or number > declared.above),
        ("at least", declared.least, declared.least is None or number >= declared.least),
        ("below", declared.below, declared.below is None or number < declared.below),
        ("at most", declared.most, declared.most is None or number <= declared.most),
    )
    if not math.isfinite(number) or not all(held for _, _, held in bounds):
        wanted = " and ".join(
            f"{word} {bound if isinstance(bound, int) else f'{bound:g}'}"
            for word, bound, _ in bounds
            if bound is not None
        )
        raise UserError(f"{name} must be {wanted or 'finite'}, not {number}")


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)
