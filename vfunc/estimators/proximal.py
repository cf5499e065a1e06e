"""The proximal problem of the implicit estimator: argmin L_pre(theta; c) + (damping / 2) |d|^2.

d = theta - theta_t is the unknown, and not theta: damping * d would otherwise amplify the rounding
of theta by the damping, which in float32 at damping = 1 / eta drowns the gradient.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.errors import NotConvergedError
from vfunc.problem import Construction, ValueProblem, pretrain_gradient
from vfunc.pullback import (
    GRADIENT,
    Chosen,
    Engine,
    MixedProduct,
    Passes,
    choose_engine,
    mixed_product,
)
from vfunc.solvers import Outcome, conjugate_gradient
from vfunc.trees import Params

STALLED = 3
"""Newton steps in a row, lost in rounding and without halving the gradient, that end the solver."""


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


@dataclass(frozen=True)
class DampedHessian:
    """x -> (H + damping I) x at one point; each product is one second-order pass.

    The `linear` engine has no Hessian products: it serves the pullback, and `auto` these.
    """

    problem: ValueProblem
    theta: Params
    construction: Construction
    damping: float
    engine: str | Engine

    def __call__(self, x: Params) -> Params:
        """(H + damping I) x, shaped like theta."""
        product, _ = self._product(x)
        assert product.hessian is not None
        return trees.axpy(self.damping, x, product.hessian)

    def passes(self, products: int) -> Passes:
        """What that many products spend: finite differences four passes each, exact ones three."""
        one = {
            "finite_difference": Passes(forwards=2, backwards=2),
            "forward": Passes(backwards=1, tangents=1),
        }.get(self.engine_name, Passes(forwards=1, backwards=2))
        return Passes(products * one.forwards, products * one.backwards, products * one.tangents)

    @property
    def engine_name(self) -> str:
        """The engine that gives the products."""
        chosen = choose_engine(
            self._engine, self.problem.linear, self.construction.designed, hessian=True
        )
        return chosen.engine.name

    @property
    def _engine(self) -> str | Engine:
        name = self.engine if isinstance(self.engine, str) else self.engine.name
        return "auto" if name == "linear" else self.engine

    def _product(self, x: Params) -> tuple[MixedProduct, Chosen]:
        return mixed_product(
            self.problem, self.theta, self.construction, x, self._engine, hessian=True
        )


def solve_proximal(
    problem: ValueProblem,
    center: Params,
    construction: Construction,
    damping: float,
    tolerance: float,
    max_iterations: int,
    engine: str | Engine,
) -> ProximalSolution:
    """Newton's method with conjugate gradient and a backtracking line search (Armijo).

    Each Newton system is solved no more exactly than the step deserves (Eisenstat and Walker,
    1996), and a direction of negative curvature ends its conjugate gradient with the iterate so
    far, or the steepest descent if there is none (Nocedal and Wright, algorithm 7.1).

    Args:
        problem: gives L_pre.
        center: theta_t.
        construction: the task.
        damping: the proximal lambda.
        tolerance: on the gradient norm, relative to |g_pre(theta_t)|.
        max_iterations: Newton steps, and conjugate gradient's in each.
        engine: of the Hessian products; `linear` has none and means `auto`.

    Returns:
        The solution.

    Raises:
        NotConvergedError: the tolerance is not met.
    """
    passes = Passes()
    curvature = math.inf
    shift, measurable = trees.zeros_like(center), True
    start, gap = 0.0, math.nan
    best, stalled = math.inf, 0

    def objective(shift: Params) -> float:
        with torch.no_grad():
            loss = problem.pretrain_loss(trees.axpy(1.0, shift, center), construction.task)
            return float(loss) + 0.5 * damping * float(trees.dot(shift, shift))

    for iteration in range(max_iterations + 1):
        theta = trees.axpy(1.0, shift, center)
        g = trees.axpy(damping, shift, pretrain_gradient(problem, theta, construction.task))
        passes = passes + GRADIENT
        size = float(trees.norm(g))
        start = start or size
        gap = size / start if start else 0.0
        if gap <= tolerance:
            return ProximalSolution(theta, gap, iteration, curvature, passes)
        stalled = 0 if measurable or gap < 0.5 * best else stalled + 1
        best = min(best, gap)
        if iteration == max_iterations or not math.isfinite(size) or stalled == STALLED:
            break
        hessian = DampedHessian(problem, theta, construction, damping, engine)
        newton = conjugate_gradient(
            hessian,
            trees.scale(g, -1.0),
            tolerance=min(0.1, max(gap, 0.5 * tolerance / gap)),
            max_iterations=max_iterations,
        )
        passes = passes + hessian.passes(newton.iterations)
        curvature = min(curvature, newton.curvature)
        direction = newton.x
        if newton.outcome is Outcome.negative_curvature and trees.is_zero(direction):
            direction = trees.scale(g, -1.0 / damping)
        slope = float(trees.dot(g, direction))
        shift, tried, measurable = _line_search(objective, shift, direction, slope)
        passes = passes + Passes(forwards=tried)
    raise NotConvergedError(
        f"implicit, proximal problem at damping {damping:g}: relative gradient {gap:.1e} after "
        f"{iteration} Newton steps, tolerance {tolerance:.1e}; raise --damping or "
        "--solver-tolerance"
    )


def _line_search(
    objective: Callable[[Params], float], shift: Params, direction: Params, slope: float
) -> tuple[Params, int, bool]:
    """Halve the step until the objective falls by 1e-4 of what its slope promises.

    Returns the shift, the evaluations spent, and whether the fall stood out from rounding.
    """
    here = objective(shift)
    rounding = 8 * max(torch.finfo(x.dtype).eps for x in shift.values()) * abs(here)
    length = 1.0
    for tried in range(2, 32):
        there = trees.axpy(length, direction, shift)
        value = objective(there)
        if value <= here + 1e-4 * length * slope + rounding:
            return there, tried, value < here - rounding
        length /= 2
    return shift, 31, False
