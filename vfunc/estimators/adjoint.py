"""The implicit estimator's adjoint: (C + damping I)^{-1} grad L_down by the solver of choice."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc.errors import UserError
from vfunc.estimators.curvature import DampedCurvature
from vfunc.solvers import Outcome, Solution, conjugate_gradient, dense, neumann, nystrom
from vfunc.trees import Params

SOLVERS = ("cg", "neumann", "nystrom", "dense")
STEPPED = ("cg", "neumann")
NYSTROM_RANK = 20


@dataclass(frozen=True)
class AdjointSolver:
    """Which solver, and how far it goes.

    Attributes:
        name: one of `SOLVERS`.
        tolerance: on the relative residual.
        max_iterations: of cg and neumann.
        steps: of cg and neumann, whatever the residual; None goes on until the tolerance is met.
        rank: of nystrom.
        seed: of what neumann and nystrom draw.
    """

    name: str
    tolerance: float
    max_iterations: int
    steps: int | None
    rank: int
    seed: int

    def __call__(
        self, matrix: DampedCurvature, b: Params, preconditioner: Params | None
    ) -> Solution:
        """Solve; the caller decides what a failure means."""
        if self.name == "dense":
            return dense(matrix, b, tolerance=self.tolerance)
        if self.name == "nystrom":
            return nystrom(
                matrix.undamped,
                b,
                damping=matrix.damping,
                rank=self.rank,
                tolerance=self.tolerance,
                seed=self.seed,
            )
        if self.name == "neumann":
            return neumann(
                matrix,
                b,
                tolerance=self.tolerance,
                max_iterations=self.max_iterations,
                terms=self.steps,
                seed=self.seed,
            )
        return conjugate_gradient(
            matrix,
            b,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            steps=self.steps,
            preconditioner=preconditioner,
        )


def check_solver(name: str, steps: int | None, rank: int | None, precondition: str | None) -> None:
    """Refuse what no solver has, and what the chosen one has no use for.

    Raises:
        UserError: an unknown name, a count below 1, or an option of another solver.
    """
    if name not in SOLVERS:
        raise UserError(f"unknown solver {name!r}; known: {', '.join(SOLVERS)}")
    if precondition not in (None, "none", "optimizer"):
        raise UserError(f"unknown precondition {precondition!r}; known: none, optimizer")
    for option, count in (("solver_steps", steps), ("nystrom_rank", rank)):
        if count is not None and count < 1:
            raise UserError(f"{option} must be at least 1, not {count}")
    if steps is not None and name not in STEPPED:
        raise UserError(f"solver_steps is for the solvers cg and neumann, not for {name}")
    if rank is not None and name != "nystrom":
        raise UserError(f"nystrom_rank is for the solver nystrom, not for {name}")
    if precondition is not None and name != "cg":
        raise UserError(f"precondition is for the solver cg, not for {name}")


def approximation(solution: Solution, name: str, unknowns: int) -> str | None:
    """How the solution falls short of its tolerance where it was asked to, or None."""
    remains = f"a relative residual of {solution.residual:.1e} remains"
    if solution.outcome is Outcome.steps:
        return f"adjoint cut short after {solution.iterations} steps of {name}: {remains}"
    if solution.outcome is Outcome.low_rank:
        return f"adjoint by a curvature of rank {solution.iterations} of {unknowns}: {remains}"
    return None
