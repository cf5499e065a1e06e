"""Builds components from options: each dataclass from the options that are its fields."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vfunc.config.fields import Field, fields_of
from vfunc.config.known import variant_of
from vfunc.config.partial import Partial
from vfunc.errors import UserError


def arguments(made: Callable[..., Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """What a component is made with, by field; fields that no option gives are left out.

    Args:
        made: a dataclass, or anything else that makes a component from named arguments.
        options: by their names. A variant of one's own is made from the given ones of a
            `ResolvedOptions` alone.

    Raises:
        UserError: see `built`.
    """
    found = {field.name: _value(field, options) for field in fields_of(made)}
    return {name: value for name, value in found.items() if value is not dataclasses.MISSING}


def built(made: Callable[..., Any], options: Mapping[str, Any], name: str = "") -> Any:
    """A component from options.

    Args:
        made: see `arguments`.
        options: see `arguments`.
        name: what users call it, for messages.

    Raises:
        UserError: it refuses its options, or one that it cannot do without is missing.
    """
    given = arguments(made, options)
    missing = [
        field.said.name or field.name
        for field in fields_of(made)
        if field.name not in given and field.default is dataclasses.MISSING
    ]
    if missing:
        flags = " and ".join("--" + option.replace("_", "-") for option in missing)
        raise UserError(f"{name or getattr(made, '__name__', made)} needs {flags}")
    return made(**given)


def _value(field: Field, options: Mapping[str, Any]) -> Any:
    if field.said.hidden:
        return dataclasses.MISSING
    if field.said.variants is not None:
        return _variant(field, field.said.variants, options)
    if field.parts is not None:
        return _component(field, field.parts, options)
    name = field.said.name or field.name
    if name not in options:
        return dataclasses.MISSING
    value = options[name]
    return value if field.said.make is None or value is None else field.said.make(value)


def _component(field: Field, made: Callable[..., Any], options: Mapping[str, Any]) -> Any:
    given = arguments(made, options)
    if field.deferred:
        return Partial(made, tuple(given.items()))
    return built(made, options) if given else dataclasses.MISSING


def _variant(
    field: Field, variants: Mapping[str, Callable[..., Any]], options: Mapping[str, Any]
) -> Any:
    name = field.said.name or field.name
    chosen = options.get(name, variant_of(field.default, variants))
    if field.said.find is not None:
        return built(field.said.find(chosen), getattr(options, "given", options), repr(chosen))
    if not isinstance(chosen, str):  # the component itself, from Python
        return chosen
    made = variants[chosen]
    if name not in options and not arguments(made, options):
        return dataclasses.MISSING
    return _component(field, made, options) if field.deferred else built(made, options)
