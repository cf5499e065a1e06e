"""Checks that a problem is the same at the end of its certification as it was at the beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Question
from vfunc.certification.report import Row
from vfunc.problem import ValueProblem, construct_task
from vfunc.problem.purity import modules_of

AGAIN = 100
"""How often a loss is asked again where something has failed: what changes now and then shows."""

SUBJECT = "asked again, it says the same"


@dataclass(frozen=True)
class Beginning:
    """What a problem's functions gave at first, and what their modules held.

    Attributes:
        question: the problem and its point.
        functions: each of the problem's functions at that point.
        values: what each gave.
        held: attributes of the modules that the functions reach, by name.
        look: reads these attributes again.
    """

    question: Question
    functions: dict[str, Callable[[], Tensor]]
    values: dict[str, Tensor]
    held: dict[str, Any]
    look: Callable[[], dict[str, Any]]

    def row(self, failed: bool) -> Row | None:
        """A failed row if a function gives something else by now; None if all are as they were.

        Args:
            failed: whether something else has failed; each is then asked many times, as they are
                where a module's attribute has changed meanwhile.
        """
        often = failed or self._changed_attribute()
        for name, function in self.functions.items():
            for count in range(1, (AGAIN if often else 1) + 1):
                with torch.no_grad():
                    now = function()
                if not _near(now, self.values[name], self.question.unit):
                    after = f", asked {count} times again" if often else ""
                    note = f"{name} gives another number by now{after}{self._changed()}"
                    return Row(SUBJECT, "FAILED", note=note, premise=True)
        return None

    def _changed_attribute(self) -> str:
        return _first_changed(self.held, self.look())

    def _changed(self) -> str:
        name = self._changed_attribute()
        if name:
            return f": {name} has changed meanwhile; an estimate must not depend on such state"
        return "; look for a count, a cache or a random number that it keeps"


def beginning(problem: ValueProblem, question: Question) -> Beginning:
    """Note what a problem gives now.

    Args:
        problem: as it was passed in: its functions lead to its modules.
        question: the problem and its point, as they are certified.
    """
    batch = question.problem.batches[0]
    # copies: an estimator that writes to what it is given is another matter
    theta, phi = ({n: x.clone() for n, x in at.items()} for at in (question.theta, question.phi))
    task = construct_task(question.problem, phi, batch).task
    functions: dict[str, Callable[[], Tensor]] = {
        "pretrain_loss": lambda: question.problem.pretrain(theta, task),
        "feedback_loss": lambda: question.problem.feedback_loss(theta),
        "construct": lambda: _sum(question.problem.construct(phi, batch)),
    }
    with torch.no_grad():
        values = {name: function() for name, function in functions.items()}
    asked = (problem.construct, problem.pretrain_loss, problem.feedback_loss)

    def look() -> dict[str, Any]:
        return dict(held for function in asked for held in _attributes(function))

    return Beginning(question, functions, values, look(), look)


def changed_by(function: Callable[[], Any], asked: object) -> str:
    """A module's attribute that a call changes; "" if none does.

    Args:
        function: makes the call.
        asked: what leads to the modules.
    """
    before = dict(_attributes(asked))
    with torch.no_grad():
        function()
    return _first_changed(before, dict(_attributes(asked)))


def _first_changed(before: dict[str, Any], now: dict[str, Any]) -> str:
    return next((n for n, x in before.items() if n in now and not _equal(now[n], x)), "")


def _attributes(function: object) -> Iterator[tuple[str, Any]]:
    """Numbers and tensors that modules hold, but for parameters, by name."""
    for module in modules_of(function):
        for path, part in module.named_modules():
            where = f"{type(part).__name__}{f' {path!r}' if path else ''}"
            kept = {k: v for k, v in vars(part).items() if not k.startswith("_")} | part._buffers
            for name, value in kept.items():
                if isinstance(value, Tensor):
                    yield f"{name!r} of {where}", value.detach().clone()
                elif isinstance(value, int | float) and not isinstance(value, bool):
                    yield f"{name!r} of {where}", value


def _sum(task: dict[str, Tensor]) -> Tensor:
    """One number that depends on every entry of a task."""
    floating = {n: x.detach().nan_to_num(posinf=0, neginf=0) for n, x in task.items()}
    drawn = trees.normal_like(
        {n: x.double() for n, x in floating.items()}, torch.Generator().manual_seed(0)
    )
    return trees.dot(drawn, {n: x.double() for n, x in floating.items()})


def _near(a: Tensor, b: Tensor, unit: float) -> bool:
    size = max(abs(float(a)), abs(float(b)))
    return abs(float(a) - float(b)) <= 1e3 * unit * size or float(a) != float(a)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True)
    return type(a) is type(b) and a == b
