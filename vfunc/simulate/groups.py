"""Reads the rule of a live optimizer's parameter group."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from functools import partial
from typing import Any, TypeAlias

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
