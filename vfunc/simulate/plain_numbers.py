"""Makes plain numbers of those that Python knows and torch does not: fractions and decimals."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any, TypeVar

from vfunc.simulate.rule import Rule
from vfunc.simulate.schedule import Rules

_OWN = f"{__package__}."
"""Where the rules are whose every option is a number of torch's arithmetic."""

_Made = TypeVar("_Made")


def plain_number(x: Any) -> Any:
    """A float in place of another real number; numbers in a tuple too, and all else as it is."""
    if isinstance(x, tuple):
        plain = tuple(map(plain_number, x))
        return x if all(a is b for a, b in zip(plain, x, strict=True)) else plain
    if isinstance(x, int) or type(x) is float or not isinstance(x, Real | Decimal):
        return x
    try:
        return float(x)
    except OverflowError:  # of either sign refused, as not finite
        return math.inf


def with_plain_numbers(made: _Made) -> _Made:
    """A dataclass with floats in place of other real numbers; the same one where there are none."""
    own = type(made).__module__.startswith(_OWN)
    every: Any = made
    names = [f.name for f in fields(every) if f.init and (own or f.name == "lr")]
    plain = {name: plain_number(getattr(made, name)) for name in names}
    changed = {name: x for name, x in plain.items() if x is not getattr(made, name)}
    return replace(every, **changed) if changed else made


def plain_rules(rules: Rules) -> Rules:
    """Rules with floats in place of other real numbers; what several names share stays one."""
    if not isinstance(rules, Mapping):
        return _plain_rule(rules)
    each = {id(rule): rule for rule in rules.values()}  # few, of many parameters
    plain = {key: _plain_rule(rule) for key, rule in each.items()}
    if all(plain[key] is rule for key, rule in each.items()):
        return rules
    return {name: plain[id(rule)] for name, rule in rules.items()}


def _plain_rule(rule: Rule) -> Rule:
    return with_plain_numbers(rule) if is_dataclass(rule) else rule
