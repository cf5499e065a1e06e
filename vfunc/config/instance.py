"""Tells which options a component was built from: `vfunc.config.build` the other way round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from vfunc.config.fields import fields_of
from vfunc.config.known import variant_of


def options_of(component: object) -> dict[str, Any]:
    """All options of a dataclass by name, with their values; a variant is told by its name."""
    return dict(_told(component, all_of_them=True))


def options_set(component: object) -> dict[str, Any]:
    """The options of a dataclass that are not at their defaults, by name, in order."""
    return dict(_told(component, all_of_them=False))


def _told(component: Any, all_of_them: bool) -> Iterator[tuple[str, Any]]:
    for field in fields_of(type(component)):
        value, variants = getattr(component, field.name), field.said.variants or {}
        chosen = variant_of(value, variants)
        known = value is not chosen  # a variant that has a name
        same = value is field.default or value == field.default
        if known:
            same = chosen == variant_of(field.default, variants)
        if all_of_them or not same:
            yield field.option, chosen
        if known:
            yield from _told(value, all_of_them)
