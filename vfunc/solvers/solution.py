"""What every solver returns: the solution, and how far it can be trusted."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from vfunc.errors import NotConvergedError
from vfunc.trees import Params

MatVec: TypeAlias = Callable[[Params], Params]
"""x -> A x."""


class Outcome(enum.Enum):
    """How a solver stopped; the value says what to do about it."""

    converged = "converged"
    iterations = "stopped at max_iterations; raise it, loosen the tolerance, or raise the damping"
    negative_curvature = "met a direction of negative curvature; raise the damping"


@dataclass(frozen=True)
class Solution:
    """An answer to A x = b.

    Attributes:
        x: the last iterate.
        outcome: how the solver stopped.
        residual: |b - A x| / |b|, from the solver's own recurrence.
        iterations: products with A spent.
        curvature: the smallest <p, A p> / <p, p> seen; negative if A is not positive definite.
    """

    x: Params
    outcome: Outcome
    residual: float
    iterations: int
    curvature: float

    @property
    def converged(self) -> bool:
        """Whether the residual met its tolerance."""
        return self.outcome is Outcome.converged

    def require(self, what: str) -> Solution:
        """The same solution if it converged.

        Raises:
            NotConvergedError: it did not; the message says how to go on.
        """
        if not self.converged:
            raise NotConvergedError(
                f"{what}: the solver {self.outcome.value} "
                f"(relative residual {self.residual:.1e} after {self.iterations} iterations)"
            )
        return self
