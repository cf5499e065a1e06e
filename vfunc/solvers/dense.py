"""The matrix itself, column by column: for few parameters, and as the reference of the others."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.solvers.solution import MatVec, Outcome, Solution
from vfunc.solvers.system import System
from vfunc.trees import Params
from vfunc.typecheck import typed

LIMIT = 2048
"""Unknowns, at most: as many products with A, and a matrix of 32 MiB."""

ASYMMETRY = 0.01
"""|A - A^T| / |A| that finite differences in float32 may leave; a wrong product leaves more."""


@dataclass(frozen=True)
class Dense:
    """The implicit estimator's solver `dense`: by the matrix itself, for few parameters."""

    name: ClassVar[str] = "dense"

    def __call__(
        self,
        system: System,
        b: Params,
        *,
        tolerance: float,
        seed: int,
        preconditioner: Params | None = None,
    ) -> Solution:
        """See `Solver.__call__`; nothing is drawn, and a preconditioner is not used."""
        return dense(system, b, tolerance=tolerance)


@typed
def dense(matvec: MatVec, b: Params, *, tolerance: float = 1e-5) -> Solution:
    """Solve A x = b by the eigenvalues of A, materialised by n products and made symmetric.

    In float64 whatever b's dtype. `curvature` is A's smallest eigenvalue; where it is not
    positive, the outcome says so and x solves the system all the same, if A is not singular.

    Args:
        matvec: x -> A x, A symmetric.
        b: right-hand side, n numbers in all.
        tolerance: on |b - A x| / |b|, A as materialised and x rounded to b's dtype.

    Returns:
        The solution with its outcome.

    Raises:
        UserError: n is above 2048, the tolerance is not positive, or A is not symmetric.
    """
    n = sum(x.numel() for x in b.values())
    if tolerance <= 0:
        raise UserError(f"dense needs tolerance > 0, not {tolerance}")
    if n > LIMIT:
        raise UserError(
            f"the dense solver would make a matrix of {n} x {n}; it takes up to {LIMIT} "
            "parameters: use another solver, or a smaller subset of the learner's parameters"
        )
    right = _vector(b, b)
    if not bool(right.any()):
        return Solution(trees.zeros_like(b), Outcome.converged, 0.0, 0, 0, math.inf)
    units = torch.eye(n, dtype=right.dtype, device=right.device)
    matrix = torch.stack([_vector(matvec(_params(unit, b)), b) for unit in units], -1)
    if not bool(torch.isfinite(matrix).all()):
        return Solution(trees.zeros_like(b), Outcome.not_finite, 1.0, n, n, math.nan)
    asymmetry = float((matrix - matrix.T).norm() / matrix.norm())
    if asymmetry > ASYMMETRY:
        raise UserError(
            f"the dense solver needs a symmetric matrix; this one is not, by {asymmetry:.1e} of "
            "its norm"
        )
    matrix = (matrix + matrix.T) / 2
    eigenvalues, vectors = torch.linalg.eigh(matrix)
    x = _params(vectors @ ((vectors.T @ right) / eigenvalues), b)
    residual = float((right - matrix @ _vector(x, b)).norm() / right.norm())
    curvature = float(eigenvalues[0])
    outcome = Outcome.converged if residual <= tolerance else Outcome.ill_conditioned
    outcome = Outcome.negative_curvature if curvature <= 0 else outcome
    return Solution(x, outcome, residual, n, n, curvature)


def _vector(a: Params, like: Params) -> Tensor:
    """One vector, in `like`'s order: a product may come in any."""
    return trees.flatten({name: a[name] for name in like}).double()


def _params(vector: Tensor, like: Params) -> Params:
    return {name: x.to(like[name].dtype) for name, x in trees.unflatten(vector, like).items()}
