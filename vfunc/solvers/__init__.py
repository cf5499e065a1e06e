"""Solvers of A x = b, with A a function."""

from vfunc.solvers.conjugate_gradient import conjugate_gradient
from vfunc.solvers.dense import dense
from vfunc.solvers.lanczos import smallest_ritz_value
from vfunc.solvers.neumann import largest_eigenvalue, neumann
from vfunc.solvers.nystrom import nystrom
from vfunc.solvers.solution import MatVec, Outcome, Solution

__all__ = [
    "MatVec",
    "Outcome",
    "Solution",
    "conjugate_gradient",
    "dense",
    "largest_eigenvalue",
    "neumann",
    "nystrom",
    "smallest_ritz_value",
]
