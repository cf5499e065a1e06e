"""Compares predicted with realised decreases of the feedback loss, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from scipy import stats

from vfunc import trees
from vfunc.problem import (
    ValueProblem,
    construct_task,
    feedback_gradient,
    step_gradient,
)
from vfunc.trees import Params, Scalar

MINIMUM = 5
"""Smallest number of points for a correlation."""


@dataclass(frozen=True)
class ProbePoint:
    """One batch's predicted and realised decrease of one loss, for one kind of step.

    Attributes:
        step: `small` (along -g_pre, a tenth as long as the learner's own step) or `real` (the
            learner's next optimizer step on this micro-batch; outside S nothing moves).
        feedback: `same` (the batch that g_down was measured on) or `held_out`.
        predicted: -<g_down, step>, loss units: to first order, whatever the estimator.
        realised: L_down before the step, minus after it.
    """

    step: str
    feedback: str
    predicted: float
    realised: float


@dataclass(frozen=True)
class ProbeSummary:
    """Predicted against realised decrease over the probe's batches, for one kind of step.

    A correlation that says nothing (a constant, fewer than `MINIMUM` points) is None.

    Attributes:
        step: see `ProbePoint`.
        feedback: see `ProbePoint`.
        count: batches, of which both decreases are finite.
        predicted: mean over them.
        realised: mean over them.
        pearson: correlation over them.
        spearman: rank correlation over them.
        left_out: batches of which a decrease is not finite.
    """

    step: str
    feedback: str
    count: int
    predicted: float
    realised: float
    pearson: float | None
    spearman: float | None
    left_out: int = 0


def probe_points(
    problem: ValueProblem,
    theta: Params,
    phi: Params,
    held_out: Callable[[Params], Scalar],
    small: float = 0.1,
    gradient: Params | None = None,
) -> list[ProbePoint]:
    """Take one batch's step, small and real, on a copy, and measure L_down before and after.

    Args:
        problem: the value problem of the batch.
        theta: the learner's parameters.
        phi: the designer's parameters.
        held_out: L_down on feedback that g_down was not measured on.
        small: the small step's length, in units of the real one's.
        gradient: `step_gradient` of the batch's task, where it has been computed before.

    Returns:
        Four points: two kinds of step on two losses.
    """
    g = gradient
    if g is None:
        task = construct_task(problem, phi, problem.batches[0]).task
        g = step_gradient(problem, theta, task)
    before, g_down = feedback_gradient(problem, theta)
    after, _ = problem.rule.step(theta, problem.state, g)
    real, g_pre = trees.axpy(-1.0, theta, after), trees.filled(g, theta)
    shrink = -small * trees.norm(real) / trees.norm(g_pre)
    points, total = [], problem.processes.total
    with torch.enable_grad():
        before_held_out = total(held_out(theta).detach())
        for kind, step in (("small", trees.scale(g_pre, shrink)), ("real", real)):
            there = trees.axpy(1.0, step, theta)
            predicted = -float(trees.dot(g_down, step))
            same = float(before - total(problem.feedback_loss(there).detach()))
            other = float(before_held_out - total(held_out(there).detach()))
            points.append(ProbePoint(kind, "same", predicted, same))
            points.append(ProbePoint(kind, "held_out", predicted, other))
    return points


def summarise(points: Iterable[ProbePoint]) -> list[ProbeSummary]:
    """Means and correlations for every kind of step and feedback, in order of appearance.

    A kind of which no batch is finite has none.
    """
    groups: dict[tuple[str, str], list[ProbePoint]] = {}
    for point in points:
        groups.setdefault((point.step, point.feedback), []).append(point)
    found = [_summary(step, feedback, group) for (step, feedback), group in groups.items()]
    return [one for one in found if one.count]


def _summary(step: str, feedback: str, points: list[ProbePoint]) -> ProbeSummary:
    finite = [p for p in points if math.isfinite(p.predicted) and math.isfinite(p.realised)]
    predicted = [p.predicted for p in finite]
    realised = [p.realised for p in finite]
    n = len(finite)
    defined = n >= MINIMUM and len(set(predicted)) > 1 and len(set(realised)) > 1
    # scipy's own result types declare no `statistic`
    pearson: Any = stats.pearsonr(predicted, realised) if defined else None
    spearman: Any = stats.spearmanr(predicted, realised) if defined else None
    return ProbeSummary(
        step,
        feedback,
        n,
        sum(predicted) / n if n else math.nan,
        sum(realised) / n if n else math.nan,
        float(pearson.statistic) if defined else None,
        float(spearman.statistic) if defined else None,
        len(points) - n,
    )
