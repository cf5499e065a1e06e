"""What every solver returns: the solution, and how far it can be trusted."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from vfunc import trees
from vfunc.errors import NotConvergedError
from vfunc.trees import Params

MatVec: TypeAlias = Callable[[Params], Params]
"""x -> A x."""


class Outcome(enum.Enum):
    """How a solver stopped; the value says what to do about it."""

    converged = "converged"
    steps = "took the steps that were asked for"
    low_rank = "solved a low-rank approximation of the system"
    iterations = (
        "stopped at its limit of iterations; ask for a number of steps (--solver-steps), loosen "
        "the tolerance, or raise the damping"
    )
    negative_curvature = "met a direction of negative curvature; raise the damping"
    diverged = "diverged: a curvature is negative or above 2 / step; raise the damping"
    ill_conditioned = "met an ill-conditioned system; loosen the tolerance or raise the damping"
    not_finite = "met a number that is not finite"


@dataclass(frozen=True, repr=False)
class Solution:
    """An answer to A x = b.

    Attributes:
        x: the last iterate.
        outcome: how the solver stopped.
        residual: |b - A x| / |b|; each solver says how it comes by it.
        iterations: steps taken (conjugate gradient), terms (Neumann), the rank (Nystrom) or
            columns (dense).
        products: products with A spent in all.
        curvature: the smallest <p, A p> / <p, p> over the directions p that the solver met, and so
            an upper bound of A's smallest eigenvalue (`dense`: that eigenvalue itself). Not
            positive, it proves that A is not positive definite; positive, it proves nothing.
    """

    x: Params
    outcome: Outcome
    residual: float
    iterations: int
    products: int
    curvature: float

    def __repr__(self) -> str:
        return (
            f"Solution({trees.described(self.x)}, {self.outcome.name}, "
            f"residual={self.residual:.1e}, iterations={self.iterations}, "
            f"products={self.products}, curvature={self.curvature:.1e})"
        )

    @property
    def converged(self) -> bool:
        """Whether the residual met its tolerance."""
        return self.outcome is Outcome.converged

    def require(self, what: str, advice: str = "") -> Solution:
        """The same solution if it converged, or is as approximate as it was asked to be.

        Args:
            what: what was solved, for the message.
            advice: what else would help where A is not positive definite.

        Raises:
            NotConvergedError: it did not; the message says how to go on.
        """
        if self.outcome not in (Outcome.converged, Outcome.steps, Outcome.low_rank):
            indefinite = self.outcome in (Outcome.negative_curvature, Outcome.diverged)
            further = advice if indefinite else ""
            raise NotConvergedError(
                f"{what}: the solver {self.outcome.value}{further} (relative residual "
                f"{self.residual:.1e} after {self.iterations} iterations, smallest curvature "
                f"{self.curvature:.1e})"
            )
        return self


def rounding(b: Params) -> float:
    """The relative residual below which a further step only moves rounding errors."""
    return 10 * max(torch.finfo(x.dtype).eps for x in b.values())
