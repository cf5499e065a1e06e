"""The proximal problem of the implicit estimator: argmin L_pre(theta; c) + (damping / 2) |d|^2.

d = theta - theta_t is the unknown, and not theta: damping * d would otherwise amplify the rounding
of theta by the damping, which in float32 at damping = 1 / eta drowns the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from vfunc import trees
from vfunc.errors import NotConvergedError
from vfunc.estimators.curvature import DampedCurvature
from vfunc.problem import Construction, ValueProblem, pretrain_gradient
from vfunc.pullback import GRADIENT, Passes
from vfunc.solvers import Outcome, conjugate_gradient
from vfunc.solvers.solution import rounding
from vfunc.trees import Params

STALLED = 3
"""Steps in a row, lost in the objective's rounding, that end the solver unless the gradient falls
by a tenth in one of them."""

SUFFICIENT = 0.25
"""Of the slope's promise. A Newton step near the optimum keeps a half; one that overshoots the
lowest point on its line by more than half its way, as Gauss-Newton's can again and again, less."""


@dataclass(frozen=True)
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
    """Newton's method with conjugate gradient and a backtracking line search (Armijo).

    Where the objective's differences are lost in rounding, at a gradient near the root of the
    round-off, the line search goes by the slope instead (Hager and Zhang, 2005, section 3).

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
    passes = Passes()
    curvature = math.inf
    shift, g, measurable = trees.zeros_like(center), None, True
    start, gap = 0.0, math.nan
    best, stalled = math.inf, 0
    limit = max_iterations if steps is None else steps
    met: ProximalSolution | None = None
    enough = tolerance if steps is None else min(tolerance, rounding(center))

    def objective(shift: Params) -> float:
        with torch.no_grad():
            loss = problem.pretrain_loss(trees.axpy(1.0, shift, center), construction.task)
            return float(loss) + 0.5 * damping * float(trees.dot(shift, shift))

    def gradient(shift: Params) -> Params:
        theta = trees.axpy(1.0, shift, center)
        return trees.axpy(damping, shift, pretrain_gradient(problem, theta, construction.task))

    for iteration in range(limit + 1):
        theta = trees.axpy(1.0, shift, center)
        if g is None:
            g, passes = gradient(shift), passes + GRADIENT
        size = float(trees.norm(g))
        start = start or size
        gap = size / start if start else 0.0
        stalled = 0 if measurable or gap < 0.9 * best else stalled + 1
        best = min(best, gap)
        ended = iteration == limit or stalled == STALLED
        found = ProximalSolution(theta, gap, iteration, curvature, passes)
        if met is not None and not gap < 0.5 * met.gap:
            best_met = found if gap < met.gap else met
            return replace(best_met, curvature=curvature, passes=passes)
        aim = enough
        if gap <= enough:
            distance = damping * float(trees.norm(shift)) / start if start else 1.0
            aim = max(enough * min(1.0, distance), rounding(center))
            if steps is not None or ended or gap <= aim:
                return found
            met = found
        if steps is not None and ended and math.isfinite(gap):
            return found
        if ended or not math.isfinite(size):
            break
        matrix = curvature_at(theta)
        newton = conjugate_gradient(
            matrix,
            trees.scale(g, -1.0),
            tolerance=min(0.1, max(gap, 0.5 * aim / gap)),
            max_iterations=max_iterations,
            preconditioner=preconditioner,
        )
        passes = passes + matrix.spent
        curvature = min(curvature, newton.curvature)
        direction = newton.x
        if newton.outcome is Outcome.negative_curvature and trees.is_zero(direction):
            direction = trees.scale(g, -1.0 / damping)
        slope = float(trees.dot(g, direction))
        here, passes = objective(shift), passes + Passes(forwards=1)
        rounding_error = 8 * max(torch.finfo(x.dtype).eps for x in shift.values()) * abs(here)
        measurable = -slope > rounding_error
        if measurable:
            shift, tried = _by_values(objective, shift, direction, slope, here, rounding_error)
            g, passes = None, passes + Passes(forwards=tried)
        else:
            shift, g = _by_slopes(gradient, shift, direction, slope)
            passes = passes + GRADIENT
    raise NotConvergedError(
        f"implicit, proximal problem at damping {damping:g}: relative gradient {gap:.1e} after "
        f"{iteration} Newton steps, tolerance {tolerance:.1e}; raise --damping or "
        "--solver-tolerance"
    )


def _by_values(
    objective: Callable[[Params], float],
    shift: Params,
    direction: Params,
    slope: float,
    here: float,
    rounding_error: float,
) -> tuple[Params, int]:
    """Halve the step until the objective falls by `SUFFICIENT` of what its slope promises.

    Returns the shift and the evaluations spent.
    """
    length = 1.0
    for tried in range(1, 31):
        there = trees.axpy(length, direction, shift)
        if objective(there) <= here + SUFFICIENT * length * slope + rounding_error:
            return there, tried
        length /= 2
    return shift, 30


def _by_slopes(
    gradient: Callable[[Params], Params], shift: Params, direction: Params, slope: float
) -> tuple[Params, Params | None]:
    """The full step if it halves the slope along it, else the zero of the slope by its secant.

    Returns the shift, and the gradient there if it is known.
    """
    there = trees.axpy(1.0, direction, shift)
    g = gradient(there)
    after = float(trees.dot(g, direction))
    if abs(after) <= 0.5 * abs(slope):
        return there, g
    length = slope / (slope - after) if after > slope else 2.0
    return trees.axpy(min(max(length, 0.1), 2.0), direction, shift), None
