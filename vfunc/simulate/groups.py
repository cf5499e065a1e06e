"""Reads the rule of a live optimizer's parameter group, and makes plain numbers of its options."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from decimal import Decimal
from functools import partial
from numbers import Real
from typing import Any, TypeAlias, TypeVar

from vfunc.simulate.optimizers.adadelta import Adadelta
from vfunc.simulate.optimizers.adafactor import Adafactor
from vfunc.simulate.optimizers.adagrad import Adagrad
from vfunc.simulate.optimizers.adam import Adam
from vfunc.simulate.optimizers.adamax import Adamax
from vfunc.simulate.optimizers.asgd import ASGD
from vfunc.simulate.optimizers.muon import Muon
from vfunc.simulate.optimizers.nadam import NAdam
from vfunc.simulate.optimizers.radam import RAdam
from vfunc.simulate.optimizers.rmsprop import RMSprop
from vfunc.simulate.optimizers.rprop import Rprop
from vfunc.simulate.optimizers.sgd import SGD
from vfunc.simulate.rule import Rule
from vfunc.simulate.schedule import Rules

Reader: TypeAlias = Callable[[Mapping[str, Any]], Rule]

NAMES = {
    "decoupled": "decoupled_weight_decay",
    "coefficients": "ns_coefficients",
    "iterations": "ns_steps",
}
"""Fields of the rules whose entry of a group has another name."""


def from_group(rule: Any, group: Mapping[str, Any]) -> Rule:
    """The rule of a parameter group: each field from the entry of its name, in plain numbers.

    Args:
        rule: a dataclass; what the group does not have keeps its default.
        group: the live group, whose numbers may be tensors.
    """
    given = {
        field.name: _plain(group[name], field.default)
        for field in fields(rule)
        if (name := NAMES.get(field.name, field.name)) in group
    }
    return rule(**given)


def _plain(x: Any, default: Any) -> Any:
    if isinstance(default, bool):
        return bool(x)
    if isinstance(default, int):
        return int(x)
    if isinstance(x, list | tuple):
        return tuple(_plain(item, None) for item in x)
    return x if x is None or isinstance(x, str) else float(x)


def _adamw(group: Mapping[str, Any]) -> Rule:
    """AdamW's rule; where the group does not say so, too, weight decay is decoupled."""
    return from_group(Adam, {NAMES["decoupled"]: True, **group})


READERS: dict[str, Reader] = {
    rule.__name__: partial(from_group, rule)
    for rule in (
        SGD, Adam, NAdam, RAdam, Adamax, Adagrad, RMSprop, Adadelta, Rprop, ASGD, Muon, Adafactor,
    )
} | {"AdamW": _adamw}  # fmt: skip
"""How the rule of a parameter group is read, by the name of the class in torch.optim."""

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
