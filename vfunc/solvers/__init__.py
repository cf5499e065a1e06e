"""Solvers of A x = b, with A a function; and the options of those that `implicit` chooses from."""

from collections.abc import Mapping

from vfunc.solvers.conjugate_gradient import ConjugateGradient, conjugate_gradient
from vfunc.solvers.dense import Dense, dense
from vfunc.solvers.lanczos import smallest_ritz_value
from vfunc.solvers.neumann import Neumann, largest_eigenvalue, neumann
from vfunc.solvers.nystrom import Nystrom, nystrom
from vfunc.solvers.solution import MatVec, Outcome, Solution
from vfunc.solvers.system import Solver, System

SOLVERS: Mapping[str, type] = {
    kind.name: kind for kind in (ConjugateGradient, Neumann, Nystrom, Dense)
}
"""The implicit estimator's solvers, as its `solver` option spells them."""

__all__ = [
    "SOLVERS",
    "ConjugateGradient",
    "Dense",
    "MatVec",
    "Neumann",
    "Nystrom",
    "Outcome",
    "Solution",
    "Solver",
    "System",
    "conjugate_gradient",
    "dense",
    "largest_eigenvalue",
    "neumann",
    "nystrom",
    "smallest_ritz_value",
]
