"""Checks that a problem is the same at the end of its certification as it was at the beginning."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Question
from vfunc.certification.report import Row
from vfunc.problem import ValueProblem, construct_task
from vfunc.problem.kept_state import Kept, first_changed, kept_by
from vfunc.trees import Params

AGAIN = 100
"""How often a function is asked again where something that it keeps has changed."""

FAILED_AGAIN = 10
"""How often it is where something has failed, and nothing that can be seen has changed."""

SUBJECT = "asked again, it says the same"


@dataclass(frozen=True)
class _Asked:
    """One function of a problem at one point.

    Attributes:
        name: of the function, for messages.
        function: asks it.
        first: what it gave.
        unit: unit round-off of its numbers.
    """

    name: str
    function: Callable[[], Tensor]
    first: Tensor
    unit: float

    def changed(self, times: int) -> int:
        """After how many calls it gives something else; 0 if it does not.

        Args:
            times: how often it is asked.
        """
        for count in range(1, times + 1):
            with torch.enable_grad():
                now = self.function().detach()
            if not _near(now, self.first, self.unit):
                return count
        return 0


@dataclass(frozen=True)
class Beginning:
    """What a problem's functions gave when they were first asked, and what they kept.

    Attributes:
        problem: as it was passed in: its functions lead to what they keep.
        asked: these functions, as they are; none if one of them fails.
        kept: what they kept before their first call.
        closely: the same in the precision in which they are certified.
    """

    problem: ValueProblem
    asked: tuple[_Asked, ...]
    kept: Kept
    closely: tuple[_Asked, ...] = ()

    def with_question(self, question: Question) -> Beginning:
        """The same, and the functions in the precision in which they are certified.

        Args:
            question: the problem and its point, as they are certified.
        """
        functions = _functions(question.problem, question.theta, question.phi)
        with torch.enable_grad():
            unasked = {n: f().detach() for n, f in functions.items() if n not in question.losses}
        first = {**question.losses, **unasked}
        closely = tuple(_Asked(n, f, first[n], question.unit) for n, f in functions.items())
        return replace(self, closely=closely)

    def row(self, failed: bool) -> Row | None:
        """A failed row if a function gives something else by now; None if all are as they were.

        Args:
            failed: whether something else has failed; each is then asked several times, and many
                times where something that they keep has changed meanwhile.
        """
        times = AGAIN if self._changed_state() else FAILED_AGAIN if failed else 1
        once = [(one, 1) for one in self.asked]
        often = [(one, times) for one in self.closely] if times > 1 or not once else []
        for one, most in (*once, *often):
            count = one.changed(most)
            if count:
                after = f", asked {count} times again" if count > 1 else ""
                note = f"{one.name} gives another number by now{after}{self._told()}"
                return Row(SUBJECT, "FAILED", note=note, premise=True)
        return None

    def _changed_state(self) -> str:
        return first_changed(self.kept, _kept(self.problem))

    def _told(self) -> str:
        name = self._changed_state()
        if name:
            return f": {name} has changed meanwhile; an estimate must not depend on such state"
        return "; look for a count, a cache or a random number that it keeps"


def beginning(problem: ValueProblem, theta: Params, phi: Params) -> Beginning:
    """Note what a problem gives now, before anything else asks it.

    Args:
        problem: the problem as it was passed in.
        theta: the learner's parameters.
        phi: the designer's parameters.
    """
    kept = _kept(problem)
    try:
        asked = []
        for name, function in _functions(problem, theta, phi).items():
            with torch.enable_grad():
                first = function().detach()
            unit = torch.finfo(first.dtype).eps
            asked.append(_Asked(name, function, first, unit))
    except Exception:  # what certifies next says what is wrong, in one line
        asked = []
    return Beginning(problem, tuple(asked), kept)


def changed_by(function: Callable[[], Any], asked: object) -> str:
    """What a function keeps that a call changes; "" if nothing is.

    Args:
        function: makes the call.
        asked: what leads to what is kept.
    """
    before = kept_by(asked)
    with torch.enable_grad():
        function()
    return first_changed(before, kept_by(asked))


def _functions(
    problem: ValueProblem, theta: Params, phi: Params
) -> dict[str, Callable[[], Tensor]]:
    """A problem's functions at one point, by name; the loss of a task that is made here."""
    batch = problem.batches[0]
    # copies: an estimator that writes to what it is given is another matter
    theta, phi = ({n: x.detach().clone() for n, x in at.items()} for at in (theta, phi))
    task = construct_task(problem, phi, batch).task
    return {
        "pretrain_loss": lambda: problem.pretrain(theta, task),
        "feedback_loss": lambda: problem.feedback_loss(theta),
        "construct": lambda: _sum(problem.construct(phi, batch)),
    }


def _kept(problem: ValueProblem) -> Kept:
    return kept_by((problem.construct, problem.pretrain_loss, problem.feedback_loss))


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
