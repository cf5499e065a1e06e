"""Conjugate gradient for symmetric positive definite A (Hestenes and Stiefel, 1952)."""

from __future__ import annotations

import math

from vfunc import trees
from vfunc.errors import UserError
from vfunc.solvers.solution import MatVec, Outcome, Solution
from vfunc.trees import Params
from vfunc.typecheck import typed


@typed
def conjugate_gradient(
    matvec: MatVec, b: Params, *, tolerance: float = 1e-5, max_iterations: int = 50
) -> Solution:
    """Solve A x = b from x = 0.

    Exact in at most n steps in exact arithmetic. A direction p with <p, A p> <= 0 ends the
    iteration, and is reported: A is then not positive definite and x is the last iterate before
    it (zero, if it is the first).

    Args:
        matvec: x -> A x, A symmetric.
        b: right-hand side.
        tolerance: on |b - A x| / |b|.
        max_iterations: products with A, at most.

    Returns:
        The solution with its outcome; the caller decides what a failure means.

    Raises:
        UserError: a tolerance or an iteration count that is not positive.
    """
    if tolerance <= 0 or max_iterations < 1:
        raise UserError(
            f"conjugate_gradient needs tolerance > 0 and max_iterations >= 1, "
            f"not {tolerance} and {max_iterations}"
        )
    x, r = trees.zeros_like(b), b
    size = float(trees.norm(b))
    if size == 0.0:
        return Solution(x, Outcome.converged, 0.0, 0, math.inf)
    p, rr = r, size**2
    curvature = math.inf
    for iteration in range(1, max_iterations + 1):
        ap = matvec(p)
        pap = float(trees.dot(p, ap))
        curvature = min(curvature, pap / float(trees.dot(p, p)))
        if pap <= 0:
            return Solution(
                x, Outcome.negative_curvature, math.sqrt(rr) / size, iteration, curvature
            )
        alpha = rr / pap
        x, r = trees.axpy(alpha, p, x), trees.axpy(-alpha, ap, r)
        rr, before = float(trees.dot(r, r)), rr
        if math.sqrt(rr) <= tolerance * size:
            return Solution(x, Outcome.converged, math.sqrt(rr) / size, iteration, curvature)
        p = trees.axpy(rr / before, p, r)
    return Solution(x, Outcome.iterations, math.sqrt(rr) / size, max_iterations, curvature)
