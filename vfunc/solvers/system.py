"""The damped system that the implicit estimator solves, and what a solver of it is."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from vfunc.solvers.solution import Solution
from vfunc.trees import Params


@runtime_checkable
class System(Protocol):
    """x -> (C + damping I) x, C symmetric."""

    @property
    def damping(self) -> float:
        """What stands on the diagonal beside C; positive."""
        ...

    @property
    def semidefinite(self) -> bool:
        """Whether C is positive semi-definite by construction."""
        ...

    def undamped(self, x: Params, /) -> Params:
        """C x."""
        ...

    def __call__(self, x: Params, /) -> Params:
        """(C + damping I) x."""
        ...


@runtime_checkable
class Solver(Protocol):
    """A way to solve a system, with its options: a frozen dataclass beside its algorithm."""

    @property
    def name(self) -> str:
        """The solver's name, as the `solver` option spells it."""
        ...

    def __call__(
        self,
        system: System,
        b: Params,
        *,
        tolerance: float,
        seed: int,
        preconditioner: Params | None = None,
    ) -> Solution:
        """Solve for b; the caller decides what a failure means.

        Args:
            system: x -> (C + damping I) x.
            b: right-hand side.
            tolerance: on |b - (C + damping I) x| / |b|.
            seed: of what the solver draws.
            preconditioner: a positive diagonal near the system's, shaped like b; for those that
                can use one.
        """
        ...
