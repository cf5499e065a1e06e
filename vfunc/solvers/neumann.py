"""The Neumann series of an inverse: A^{-1} b = s sum_j (I - s A)^j b."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch

from vfunc import trees
from vfunc.config.allowed import check_fields
from vfunc.config.declared import option
from vfunc.errors import UserError
from vfunc.solvers.solution import MatVec, Outcome, Solution, rounding
from vfunc.solvers.system import System
from vfunc.trees import Params
from vfunc.typecheck import typed

POWER_ITERATIONS = 8


@dataclass(frozen=True)
class Neumann:
    """The implicit estimator's solver `neumann`: linear in the right-hand side, with more products.

    Attributes:
        steps: products of cg, or terms of neumann, spent on the adjoint whatever the residual;
            approximate.
        max_iterations: terms, at most.
    """

    steps: int | None = option(
        default=None, shown="until --solver-tolerance", name="solver_steps", least=1
    )
    max_iterations: int = option(default=50, least=1, hidden=True)

    name: ClassVar[str] = "neumann"

    def __post_init__(self) -> None:
        check_fields(self)

    def __call__(
        self,
        system: System,
        b: Params,
        *,
        tolerance: float,
        seed: int,
        preconditioner: Params | None = None,
    ) -> Solution:
        """See `Solver.__call__`; a preconditioner is not used."""
        return neumann(
            system,
            b,
            tolerance=tolerance,
            max_iterations=self.max_iterations,
            terms=self.steps,
            seed=seed,
        )


@typed
def neumann(
    matvec: MatVec,
    b: Params,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 50,
    terms: int | None = None,
    step: float | None = None,
    seed: int = 0,
) -> Solution:
    """Solve A x = b by x = s sum_{j < m} (I - s A)^j b, the first m terms of Neumann's series.

    It converges for 0 < s lambda < 2 at every eigenvalue lambda of A, by |1 - s lambda| a term:
    slower than conjugate gradient, but linear in b, and the same as m steps of gradient descent
    (Lorraine, Vicol and Duvenaud, 2020). Inside that radius the residual (I - s A)^m b cannot
    grow; growth therefore ends the series as diverged, with the x of the smallest residual: the
    step is too long, or A has a negative eigenvalue. A residual r or a vector of the power
    iteration with <r, A r> <= 0 proves the latter, and is reported as negative curvature.

    Args:
        matvec: x -> A x, A symmetric.
        b: right-hand side.
        tolerance: on |b - A x| / |b|, the residual by the recurrence.
        max_iterations: terms, at most.
        terms: terms, whatever the residual (but none once it is down to rounding); in place of
            `max_iterations`.
        step: s; None takes 1 / `largest_eigenvalue`, 8 more products with A.
        seed: of the power iteration.

    Returns:
        The solution with its outcome; with `terms` that is `steps` unless the tolerance is met.

    Raises:
        UserError: a tolerance, a step or a number of terms that is not positive.
    """
    limit = max_iterations if terms is None else terms
    if tolerance <= 0 or limit < 1 or (step is not None and step <= 0):
        raise UserError(
            f"neumann needs tolerance > 0, max_iterations >= 1 and step > 0, "
            f"not {tolerance}, {limit} and {step}"
        )
    x, r = trees.zeros_like(b), b
    size = float(trees.norm(b))
    if size == 0.0:
        return Solution(x, Outcome.converged, 0.0, 0, 0, math.inf)
    residual, curvature, power = 1.0, math.inf, 0
    if step is None:
        largest, curvature, power = largest_eigenvalue(matvec, b, seed=seed)
        if curvature <= 0:
            return Solution(x, Outcome.negative_curvature, residual, 0, power, curvature)
        step = 1 / largest
    enough = tolerance if terms is None else min(tolerance, rounding(b))
    # what one step's rounding may add to a residual that should not grow
    growth = 1 + rounding(b)
    for term in range(1, limit + 1):
        ar = matvec(r)
        seen = float(trees.dot(r, ar)) / float(trees.dot(r, r))
        curvature = min(curvature, seen)
        after = trees.axpy(-step, ar, r)
        before, now = residual, float(trees.norm(after)) / size
        bad = (
            Outcome.negative_curvature
            if seen <= 0
            else Outcome.not_finite
            if not math.isfinite(now)
            else Outcome.diverged
            if now > growth * before
            else None
        )
        if bad is not None:
            return Solution(x, bad, before, term - 1, power + term, curvature)
        x, r, residual = trees.axpy(step, r, x), after, now
        if residual <= enough:
            return Solution(x, Outcome.converged, residual, term, power + term, curvature)
    outcome = Outcome.iterations if terms is None else Outcome.steps
    outcome = Outcome.converged if residual <= tolerance else outcome
    return Solution(x, outcome, residual, limit, power + limit, curvature)


@typed
def largest_eigenvalue(
    matvec: MatVec, like: Params, *, iterations: int = POWER_ITERATIONS, seed: int = 0
) -> tuple[float, float, int]:
    """A bound on A's largest eigenvalue, by the power method from a random start.

    rho + |A v - rho v|, rho = <v, A v> at the last unit vector v: at least rho, and above the
    eigenvalue nearest to rho. It is a bound on the largest one in practice and not by proof; a
    Neumann series only needs it to exceed half of that.

    Args:
        matvec: x -> A x, A symmetric.
        like: the shapes of x.
        iterations: products with A, at most.
        seed: seed of the random vector that the iteration starts from.

    Returns:
        The bound, the smallest <v, A v> seen, and the products with A spent.
    """
    v = trees.normal_like(like, torch.Generator().manual_seed(seed))
    bound, smallest, spent = math.inf, math.inf, 0
    while spent < iterations and 0 < (length := float(trees.norm(v))) < math.inf:
        v = trees.scale(v, 1 / length)
        av, spent = matvec(v), spent + 1
        rho = float(trees.dot(v, av))
        smallest = min(smallest, rho)
        bound = rho + float(trees.norm(trees.axpy(-rho, v, av)))
        v = av
    return bound, smallest, spent
