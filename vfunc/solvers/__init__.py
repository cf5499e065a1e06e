"""Solvers of A x = b, with A a function."""

from vfunc.solvers.conjugate_gradient import conjugate_gradient
from vfunc.solvers.solution import MatVec, Outcome, Solution

__all__ = ["MatVec", "Outcome", "Solution", "conjugate_gradient"]
