"""The rows of the score: estimators with their options, and what is read off each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from vfunc.estimators import Estimator, Unrolled, make_estimator
from vfunc.studies.score.asking import Reading

LOOKAHEADS = (1, 4, 16, 64)
IMPLICIT_STEPS = 32
"""Learner steps that an implicit estimate takes about, as measured: Newton and CG iterations."""


@dataclass(frozen=True)
class Row:
    """An estimator that is scored.

    Attributes:
        name: the estimator's.
        options: its options; `damping` is in units of 1 / eta.
        readings: what its predictions are read off: its value or its objective, task by task, or
            the slope of its objective at the text as it is, from one estimate.
        steps: learner steps that an estimate takes, roughly: those with many are not asked task by
            task.
        ahead: learner steps that it looks ahead, for which there have to be batches.
        draws: estimates with seeds of their own, for a direction that is drawn.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    readings: tuple[Reading, ...] = ("value", "slope")
    steps: int = 1
    ahead: int = 1
    draws: int = 1

    @property
    def label(self) -> str:
        """`unrolled lookahead_steps=4`."""
        return " ".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])

    @property
    def batches(self) -> int:
        """How many batches the estimator wants, whatever it looks ahead to."""
        return max(1, getattr(self.estimator(1.0), "mean_batches", 0))

    def estimator(self, eta: float) -> Estimator:
        """The estimator at a state whose next step has size eta."""
        options = dict(self.options)
        if "damping" in options:
            options["damping"] = options["damping"] / eta
        return make_estimator(self.name, options)

    def estimator_of_values(self, eta: float) -> Estimator:
        """One with the same values and a cheap gradient: a lookahead's value has no adjoint."""
        made = self.estimator(eta)
        if isinstance(made, Unrolled) and made.lookahead_steps > 1:
            return Unrolled(made.lookahead_steps, truncate=1, engine=made.engine)
        return made


def _unrolled(steps: int) -> Row:
    return Row("unrolled", {"lookahead_steps": steps}, steps=steps, ahead=steps)


def _truncated(steps: int, reach: int) -> Row:
    # its value is that of the whole lookahead: the slope alone is its own
    options = {"lookahead_steps": steps, "truncate": reach}
    return Row("unrolled", options, ("slope",), steps, steps)


def _implicit(**options: Any) -> Row:
    return Row("implicit", options, steps=IMPLICIT_STEPS)


ROWS: tuple[Row, ...] = (
    Row("zero", {}, ("objective",)),
    Row("random", {}, ("slope",), draws=8),
    # its value is linear in the task, and so is the slope: one reading
    Row("first_order", {"value": "dot"}, ("value",)),
    Row("first_order", {"value": "cosine"}, ("value", "objective", "slope")),
    Row("first_order", {"value": "preconditioned"}),
    Row("first_order", {"value": "deflated"}, ("value",)),
    Row("first_order", {"value": "deflated_preconditioned"}),
    # the mean is of the very tasks that are asked about: the slope, along which a designer goes,
    # is at the text's own
    Row("first_order", {"value": "deflated", "means": 0, "mean_batches": 4}, ("slope",)),
    *map(_unrolled, LOOKAHEADS),
    _truncated(16, 4),
    _truncated(64, 4),
    _implicit(damping=1.0),
    _implicit(damping=0.1),
    _implicit(damping=0.01),
    _implicit(damping=0.1, curvature="gauss_newton"),
    _implicit(damping=0.01, curvature="gauss_newton"),
)


def chosen(only: str | None, own: Sequence[str]) -> list[Row]:
    """The rows to score.

    Args:
        only: start of their labels; None takes all.
        own: estimators of one's own, by `package.module:Name`, with their default options.
    """
    rows = [row for row in ROWS if row.label.startswith(only or "")]
    return rows + [_own(name) for name in own]


def _own(name: str) -> Row:
    ahead = getattr(make_estimator(name), "lookahead_steps", 1)
    return Row(name, {}, ("value", "objective", "slope"), ahead, ahead)
