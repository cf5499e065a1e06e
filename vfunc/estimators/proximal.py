"""The proximal problem of the implicit estimator: argmin L_pre(theta; c) + (damping / 2) |d|^2.

d = theta - theta_t is the unknown, and not theta: damping * d would otherwise amplify the rounding
of theta by the damping, which in float32 at damping = 1 / eta drowns the gradient.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from vfunc import trees
from vfunc.errors import NotConvergedError
from vfunc.estimators.curvature import DampedCurvature
from vfunc.estimators.line_search import search
from vfunc.problem import Construction, Task, ValueProblem, pretrain_gradient
from vfunc.pullback import GRADIENT, Passes
from vfunc.solvers import Outcome, conjugate_gradient
from vfunc.solvers.solution import rounding
from vfunc.trees import Params

STALLED = 3
"""Steps in a row, lost in the objective's rounding, that end the solver unless the gradient falls
by a tenth in one of them."""


@dataclass(frozen=True, repr=False)
class ProximalSolution:
    """theta*, and how it was reached.

    Attributes:
        theta: theta*.
        gap: |gradient of the proximal objective| there, relative to |g_pre(theta_t)|.
        iterations: Newton steps.
        curvature: the smallest curvature of the proximal objective that was met.
        passes: learner passes spent.
    """

    theta: Params
    gap: float
    iterations: int
    curvature: float
    passes: Passes

    def __repr__(self) -> str:
        return (
            f"ProximalSolution(theta={trees.described(self.theta)}, gap={self.gap:.1e}, "
            f"iterations={self.iterations}, curvature={self.curvature:.1e}, {self.passes})"
        )


def solve_proximal(
    problem: ValueProblem,
    center: Params,
    construction: Construction,
    damping: float,
    tolerance: float,
    *,
    max_iterations: int,
    curvature_at: Callable[[Params], DampedCurvature],
    steps: int | None = None,
    preconditioner: Params | None = None,
) -> ProximalSolution:
    """Newton's method with conjugate gradient and a backtracking line search (see `search`).

    Each Newton system is solved no more exactly than the step deserves (Eisenstat and Walker,
    1996), and a direction of negative curvature ends its conjugate gradient with the iterate so
    far, or the steepest descent if there is none (Nocedal and Wright, algorithm 7.1). With the
    Gauss-Newton matrix for the Hessian the steps descend too, and have the same end: the gradient
    is that of L_pre itself.

    A gradient of the relative size `tolerance` leaves theta* off by up to tolerance
    |g_pre(theta_t)| / damping where L_pre is flat, which at a small damping is far more than the
    tolerance of its distance |d| from theta_t. The steps therefore go on down to a gradient of
    tolerance * damping |d|, as long as each halves it, which Newton's do down to rounding. At a
    damping above L_pre's curvature, where |g_pre(theta_t)| is near damping |d|, that seldom asks
    for one more.

    Args:
        problem: gives L_pre.
        center: theta_t.
        construction: the task.
        damping: the proximal lambda.
        tolerance: on the gradient norm, relative to |g_pre(theta_t)|.
        max_iterations: Newton steps, and conjugate gradient's in each.
        curvature_at: the damped curvature at a point.
        steps: Newton steps, whatever the gap that remains (but none once it is down to
            rounding); None goes on until the tolerance is met.
        preconditioner: of conjugate gradient, its diagonal.

    Returns:
        The solution; its gap exceeds the tolerance only where `steps` is given.

    Raises:
        NotConvergedError: the tolerance is not met, or a number is not finite.
    """
    proximal = _Proximal(problem, center, construction.task, damping)
    floor = rounding(center)
    rule = _StoppingRule(
        enough=tolerance if steps is None else min(tolerance, floor),
        floor=floor,
        limit=max_iterations if steps is None else steps,
        loose=steps is not None,
        damping=damping,
    )
    at = _start(proximal)
    while (answer := rule.answer(at)) is None:
        if rule.ended(at) or not math.isfinite(at.size):
            advice = "raise --damping or --solver-tolerance"
            if math.isfinite(at.size) and proximal.kinked(at.shift, at.g):
                advice = (
                    "it has stopped on a kink (a ReLU's, a clamp's), where a minimum has no "
                    "gradient of zero, and no derivative in phi: take another --damping, or a "
                    "smooth loss"
                )
            raise NotConvergedError(
                f"implicit, proximal problem at damping {damping:g}: relative gradient "
                f"{at.gap:.1e} after {at.iteration} Newton steps, tolerance {tolerance:.1e}; "
                f"{advice}"
            )
        at = replace(at, met=rule.met(at))
        matrix = curvature_at(proximal.theta(at.shift))
        at = _newton_step(proximal, at, matrix, rule.aim(at), max_iterations, preconditioner)
    return answer


@dataclass(frozen=True)
class _Proximal:
    """The objective as a function of d = theta - theta_t."""

    problem: ValueProblem
    center: Params
    task: Task
    damping: float

    def theta(self, shift: Params) -> Params:
        return trees.axpy(1.0, shift, self.center)

    def value(self, shift: Params) -> float:
        with torch.enable_grad():
            loss = self.problem.pretrain(self.theta(shift), self.task).detach()
            pull = 0.5 * self.damping * float(trees.dot(shift, shift))
            return float(self.problem.processes.total(loss)) + pull

    def kinked(self, shift: Params, g: Params) -> bool:
        """Whether a kink is near: the slopes to both sides along the gradient differ.

        A curvature makes them differ in proportion to the step; a kink that is within reach of it
        does not.
        """
        size, eps = float(trees.norm(g)), max(torch.finfo(x.dtype).eps for x in shift.values())
        if not size > 0:
            return False
        along, here = trees.scale(g, -1 / size), self.value(shift)

        def jump(step: float) -> float:
            ahead, behind = (self.value(trees.axpy(way, along, shift)) for way in (step, -step))
            return (ahead - 2 * here + behind) / step

        step = eps ** (1 / 3) * max(float(trees.norm(self.theta(shift))), 1.0)
        jumps = [jump(step * 4.0**k) for k in range(-2, 9)]
        pairs = itertools.pairwise(jumps)
        return any(near > max(0.5 * size, 0.6 * far) for near, far in pairs)

    def gradient(self, shift: Params) -> Params:
        g_pre = pretrain_gradient(self.problem, self.theta(shift), self.task)
        return trees.axpy(self.damping, shift, g_pre)


@dataclass(frozen=True)
class _Iterate:
    """Where Newton's method is.

    Attributes:
        theta: the point.
        shift: d = theta - theta_t.
        g: the objective's gradient.
        size: |g|.
        start: |g| at theta_t.
        gap: |g| relative to that.
        iteration: Newton steps taken.
        curvature: the smallest that was met.
        passes: learner passes spent.
        best: the smallest gap so far.
        stalled: steps in a row without measurable progress.
        met: the first iterate that met the tolerance, if the steps go on from there.
    """

    theta: Params
    shift: Params
    g: Params
    size: float
    start: float
    gap: float
    iteration: int
    curvature: float
    passes: Passes
    best: float
    stalled: int
    met: ProximalSolution | None = None

    @property
    def solution(self) -> ProximalSolution:
        return ProximalSolution(self.theta, self.gap, self.iteration, self.curvature, self.passes)


@dataclass(frozen=True)
class _StoppingRule:
    """When Newton's method ends, and with what.

    Attributes:
        enough: the gap that will do.
        floor: the gap below which a step only moves rounding errors.
        limit: Newton steps, at most.
        loose: whether their number is asked for, whatever the gap that remains.
        damping: the proximal lambda.
    """

    enough: float
    floor: float
    limit: int
    loose: bool
    damping: float

    def ended(self, at: _Iterate) -> bool:
        """Whether no step is left, or none helps."""
        return at.iteration == self.limit or at.stalled == STALLED

    def aim(self, at: _Iterate) -> float:
        """The gap to go for: one that says as much of the distance from theta_t, once met."""
        if not at.gap <= self.enough:
            return self.enough
        shift = self.damping * float(trees.norm(at.shift))
        distance = shift / at.start if at.start else 1.0
        return max(self.enough * min(1.0, distance), self.floor)

    def met(self, at: _Iterate) -> ProximalSolution | None:
        """The latest iterate that met the tolerance."""
        return at.solution if at.gap <= self.enough else at.met

    def answer(self, at: _Iterate) -> ProximalSolution | None:
        """The solution, if this iterate settles it."""
        if at.met is not None and not at.gap < 0.5 * at.met.gap:
            best = at.solution if at.gap < at.met.gap else at.met
            return replace(best, curvature=at.curvature, passes=at.passes)
        if at.gap <= self.enough and (self.loose or self.ended(at) or at.gap <= self.aim(at)):
            return at.solution
        if self.loose and self.ended(at) and math.isfinite(at.gap):
            return at.solution
        return None


def _start(proximal: _Proximal) -> _Iterate:
    """The learner's parameters at this step, theta_t, which the term pulls towards."""
    shift = trees.zeros_like(proximal.center)
    g = proximal.gradient(shift)
    size = float(trees.norm(g))
    gap = size / size if size else 0.0
    best = min(math.inf, gap)
    theta = proximal.theta(shift)
    return _Iterate(theta, shift, g, size, size, gap, 0, math.inf, GRADIENT, best, 0)


def _newton_step(
    proximal: _Proximal,
    at: _Iterate,
    matrix: DampedCurvature,
    aim: float,
    max_iterations: int,
    preconditioner: Params | None,
) -> _Iterate:
    """One step: Newton's direction by conjugate gradient, and a line search along it."""
    newton = conjugate_gradient(
        matrix,
        trees.scale(at.g, -1.0),
        tolerance=min(0.1, max(at.gap, 0.5 * aim / at.gap)),
        max_iterations=max_iterations,
        preconditioner=preconditioner,
    )
    matrix.forget()
    direction = newton.x
    if newton.outcome is Outcome.negative_curvature and trees.is_zero(direction):
        direction = trees.scale(at.g, -1.0 / proximal.damping)
    found = search(proximal.value, proximal.gradient, at.shift, at.g, direction)
    passes = at.passes + matrix.spent + found.passes
    g = found.gradient
    if g is None:
        g, passes = proximal.gradient(found.x), passes + GRADIENT
    size = float(trees.norm(g))
    gap = size / at.start if at.start else 0.0
    return replace(
        at,
        theta=proximal.theta(found.x),
        shift=found.x,
        g=g,
        size=size,
        gap=gap,
        iteration=at.iteration + 1,
        curvature=min(at.curvature, newton.curvature),
        passes=passes,
        best=min(at.best, gap),
        stalled=0 if found.measurable or gap < 0.9 * at.best else at.stalled + 1,
    )
