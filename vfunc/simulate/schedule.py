"""Foresees the step sizes of later steps: those that a schedule will give."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from vfunc.errors import UserError
from vfunc.simulate.rule import Rule

Schedule: TypeAlias = LRScheduler | Callable[[int], float]
"""A scheduler of torch, or k -> the k-th later step's size as a multiple of the next step's."""

Rules: TypeAlias = Rule | Mapping[str, Rule]
Later: TypeAlias = Callable[[int], Rules]
"""k -> the rules of the k-th step after the next one."""

Groups: TypeAlias = list[dict[str, Any]]


def scaled(rules: Rules, factor: float) -> Rules:
    """The rules with their step sizes multiplied.

    Raises:
        UserError: a rule that is no dataclass with a field `lr`.
    """
    if isinstance(rules, Mapping):
        made: dict[int, Rule] = {}
        for rule in rules.values():
            if id(rule) not in made:
                made[id(rule)] = _scaled(rule, factor)
        return {name: made[id(rule)] for name, rule in rules.items()}
    return _scaled(rules, factor)


def _scaled(rule: Rule, factor: float) -> Rule:
    if factor == 1.0:
        return rule
    if not is_dataclass(rule) or "lr" not in {f.name for f in fields(rule)}:
        raise UserError(
            f"a schedule needs rules whose step size can be changed, and {type(rule).__name__} is "
            "no dataclass with a field `lr`"
        )
    return replace(rule, lr=rule.lr * factor)


def later_by_factors(rules: Rules, factor: Callable[[int], float]) -> Later:
    """Later rules from a function of the step.

    Args:
        rules: those of the next step.
        factor: k -> a multiple of the next step's sizes.
    """
    found: dict[int, Rules] = {}

    def later(k: int) -> Rules:
        if k not in found:
            by = float(factor(k))
            if not 0 <= by < float("inf"):
                raise UserError(f"schedule({k}) is {by}: it has to be a factor, 0 or above")
            if by and not _any_size(rules):
                raise UserError(
                    "the next step's size is 0, and no multiple of it is a later one's: give "
                    "`schedule` a scheduler of torch.optim.lr_scheduler"
                )
            found[k] = scaled(rules, by)
        return found[k]

    return later


def _any_size(rules: Rules) -> bool:
    return any(r.lr for r in (rules.values() if isinstance(rules, Mapping) else (rules,)))


def later_by_scheduler(
    scheduler: LRScheduler, optimizer: torch.optim.Optimizer, read: Callable[[Groups], Rules]
) -> Later:
    """Later rules from a scheduler that is stepped once after every optimizer step.

    The scheduler is copied, with its optimizer's groups and without their parameters, and the
    copy is stepped: the live one is never touched. What else it moves (a cyclic momentum) is
    followed too.

    Args:
        scheduler: of this optimizer.
        optimizer: the live optimizer.
        read: groups -> rules.

    Raises:
        UserError: a scheduler that needs a metric, that is another optimizer's, or that cannot be
            copied.
    """
    require_scheduler(scheduler, optimizer)
    stand_in = _Groups(optimizer)
    try:
        twin = copy.deepcopy(scheduler, {id(optimizer): stand_in, **_shared(scheduler)})
    except Exception as error:  # whatever a user's scheduler holds
        raise UserError(
            f"the schedule, a {type(scheduler).__name__}, cannot be copied "
            f"({type(error).__name__}: {error}); give `schedule` a function of the step"
        ) from error
    found: dict[int, Rules] = {}
    reached = 0

    def later(k: int) -> Rules:
        nonlocal reached
        while reached < k:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                twin.step()
            reached += 1
            found[reached] = read(stand_in.param_groups)
        return found[k]

    return later


def require_scheduler(scheduler: LRScheduler, optimizer: torch.optim.Optimizer) -> None:
    """Refuse schedulers that do not say what later steps will be.

    Raises:
        UserError: as described.
    """
    if isinstance(scheduler, ReduceLROnPlateau):
        raise UserError(
            "ReduceLROnPlateau waits for a metric, and later step sizes are not known: leave "
            "`schedule` out, and later steps keep the present size"
        )
    if getattr(scheduler, "optimizer", None) is not optimizer:
        raise UserError(f"the schedule, a {type(scheduler).__name__}, is that of another optimizer")


def _shared(scheduler: LRScheduler) -> dict[int, Any]:
    """Methods of other objects that a scheduler calls, by id: what they belong to is not copied."""
    found: dict[int, Any] = {}
    for value in vars(scheduler).values():
        for x in value if isinstance(value, list | tuple) else (value,):
            if isinstance(x, LRScheduler):
                found |= _shared(x)
            elif inspect.ismethod(x) and not isinstance(x.__self__, LRScheduler):
                found[id(x)] = x
    return found


class _Groups:
    """An optimizer's parameter groups without their parameters, for a copy of its scheduler."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self.defaults = dict(optimizer.defaults)
        self.param_groups: Groups = [
            {key: _copied(x) for key, x in group.items() if key != "params"}
            for group in optimizer.param_groups
        ]
        self._opt_called = True

    def step(self) -> None:
        """Nothing: schedulers look for it."""


def _copied(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else copy.copy(x)
