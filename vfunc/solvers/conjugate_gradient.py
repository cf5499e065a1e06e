"""Conjugate gradient for symmetric positive definite A (Hestenes and Stiefel, 1952)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from vfunc import trees
from vfunc.config.allowed import check_fields
from vfunc.config.declared import option
from vfunc.errors import UserError
from vfunc.solvers.lanczos import smallest_ritz_value
from vfunc.solvers.solution import MatVec, Outcome, Solution, rounding
from vfunc.solvers.system import System
from vfunc.trees import Params
from vfunc.typecheck import typed


@dataclass(frozen=True)
class ConjugateGradient:
    """The implicit estimator's solver `cg`: conjugate gradient, and a look for negative curvature.

    Conjugate gradient meets only the directions that the right-hand side reaches. So Lanczos
    steps from a random start look for curvature that it cannot meet, `probe_steps` products of
    them. Three find what is of the largest curvature's size; a network's saddle can have a
    hundredth of that, and take thirty (see `smallest_ritz_value`).

    Attributes:
        steps: products of cg, or terms of neumann, spent on the adjoint whatever the residual;
            approximate.
        precondition: optimizer preconditions by the second moments of Adam or AdamW.
        max_iterations: products with the system, at most.
        probe_steps: products with random directions that look for negative curvature; 0 for none.
    """

    steps: int | None = option(
        default=None, shown="until --solver-tolerance", name="solver_steps", least=1
    )
    precondition: Literal["none", "optimizer"] = "none"
    max_iterations: int = option(default=50, least=1, hidden=True)
    probe_steps: int = option(default=3, least=0, hidden=True)

    name: ClassVar[str] = "cg"

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
        """See `Solver.__call__`."""
        solution = conjugate_gradient(
            system,
            b,
            tolerance=tolerance,
            max_iterations=self.max_iterations,
            steps=self.steps,
            preconditioner=preconditioner,
        )
        return probed(solution, system, b, self.probe_steps, seed)


@typed
def conjugate_gradient(
    matvec: MatVec,
    b: Params,
    *,
    tolerance: float = 1e-5,
    max_iterations: int = 50,
    steps: int | None = None,
    preconditioner: MatVec | Params | None = None,
) -> Solution:
    """Solve A x = b from x = 0.

    Exact in at most n steps in exact arithmetic, whatever the preconditioner (Golub and Van Loan,
    algorithm 11.5.1). A direction p with <p, A p> <= 0 ends the iteration, and is reported: A is
    then not positive definite and x is the last iterate before it (zero, if it is the first).

    Args:
        matvec: x -> A x, A symmetric.
        b: right-hand side.
        tolerance: on |b - A x| / |b|, the residual by the recurrence.
        max_iterations: products with A, at most.
        steps: products with A, whatever the residual (but none once it is down to rounding);
            in place of `max_iterations`.
        preconditioner: a symmetric positive definite M near A: its diagonal, shaped like b, or
            the function r -> M^{-1} r.

    Returns:
        The solution with its outcome; the caller decides what a failure means. With `steps` the
        outcome is `steps` unless the tolerance is met all the same.

    Raises:
        UserError: a tolerance or an iteration count that is not positive, or a preconditioner
            that is not positive definite.
    """
    limit = max_iterations if steps is None else steps
    if tolerance <= 0 or limit < 1:
        raise UserError(
            f"conjugate_gradient needs tolerance > 0 and max_iterations >= 1, "
            f"not {tolerance} and {limit}"
        )
    apply = _applied(preconditioner, b)
    enough = tolerance if steps is None else min(tolerance, rounding(b))
    x, r = trees.zeros_like(b), b
    size = float(trees.norm(b))
    if size == 0.0:
        return Solution(x, Outcome.converged, 0.0, 0, 0, math.inf)
    residual, curvature = 1.0, math.inf
    p, rz = apply(r)
    for iteration in range(1, limit + 1):
        ap = matvec(p)
        pap = float(trees.dot(p, ap))
        curvature = min(curvature, pap / float(trees.dot(p, p)))
        if pap <= 0:
            outcome = Outcome.negative_curvature
            return Solution(x, outcome, residual, iteration, iteration, curvature)
        alpha = rz / pap
        x, r = trees.axpy(alpha, p, x), trees.axpy(-alpha, ap, r)
        residual = float(trees.norm(r)) / size
        if not math.isfinite(residual):
            return Solution(x, Outcome.not_finite, residual, iteration, iteration, curvature)
        if residual <= enough:
            return Solution(x, Outcome.converged, residual, iteration, iteration, curvature)
        before = rz
        z, rz = apply(r)
        p = trees.axpy(rz / before, p, z)
    outcome = Outcome.iterations if steps is None else Outcome.steps
    outcome = Outcome.converged if residual <= tolerance else outcome
    return Solution(x, outcome, residual, limit, limit, curvature)


def _applied(
    preconditioner: MatVec | Params | None, b: Params
) -> Callable[[Params], tuple[Params, float]]:
    """r -> (M^{-1} r, <r, M^{-1} r>), checked to be positive."""
    if preconditioner is None:
        return lambda r: (r, float(trees.dot(r, r)))
    if isinstance(preconditioner, dict):
        trees.require_same_structure("the preconditioner", preconditioner, b)
        if not all(bool((d > 0).all()) for d in preconditioner.values()):
            raise UserError("the preconditioner's diagonal has entries that are not positive")

    def apply(r: Params) -> tuple[Params, float]:
        if isinstance(preconditioner, dict):
            z = {name: x / preconditioner[name] for name, x in r.items()}
        else:
            z = preconditioner(r)
        rz = float(trees.dot(r, z))
        if rz <= 0:
            raise UserError(f"the preconditioner is not positive definite: <r, M^-1 r> = {rz:.1e}")
        return z, rz

    return apply


def probed(solution: Solution, system: System, b: Params, steps: int, seed: int) -> Solution:
    """A solution of conjugate gradient, refused where a random start finds negative curvature.

    Conjugate gradient sees the directions that b reaches by products with the matrix, and where
    units of a network are the same, or dead, those that tell them apart are not among them: a
    saddle passes for a minimum. See `smallest_ritz_value` for what so many steps find. No product
    is spent on a curvature that is positive by construction.

    Args:
        solution: conjugate gradient's.
        system: what was solved.
        b: right-hand side.
        steps: products to spend, at most.
        seed: seed of the random vector that the iteration starts from.
    """
    if solution.outcome not in (Outcome.converged, Outcome.steps):
        return solution
    if system.semidefinite or steps == 0:
        return solution
    smallest, spent = smallest_ritz_value(system, b, steps=steps, seed=seed)
    return replace(
        solution,
        outcome=Outcome.negative_curvature if smallest <= 0 else solution.outcome,
        products=solution.products + spent,
        curvature=min(solution.curvature, smallest),
    )
