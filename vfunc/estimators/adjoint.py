"""The implicit estimator's adjoint: (C + damping I)^{-1} grad L_down by the solver of choice."""

from __future__ import annotations

from dataclasses import dataclass, replace

from vfunc.errors import UserError
from vfunc.estimators.curvature import DampedCurvature
from vfunc.solvers import (
    Outcome,
    Solution,
    conjugate_gradient,
    dense,
    neumann,
    nystrom,
    smallest_ritz_value,
)
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
        seed: of what neumann, nystrom and the look for negative curvature draw.
        probe_steps: products spent on that look, after cg (see `probed`).
    """

    name: str
    tolerance: float
    max_iterations: int
    steps: int | None
    rank: int
    seed: int
    probe_steps: int

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
        solution = conjugate_gradient(
            matrix,
            b,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
            steps=self.steps,
            preconditioner=preconditioner,
        )
        return probed(solution, matrix, b, self.probe_steps, self.seed)


def probed(
    solution: Solution, matrix: DampedCurvature, b: Params, steps: int, seed: int
) -> Solution:
    """A solution of conjugate gradient, refused where a random start finds negative curvature.

    Conjugate gradient sees the directions that b reaches by products with the matrix, and where
    units of a network are the same, or dead, those that tell them apart are not among them: a
    saddle passes for a minimum. See `smallest_ritz_value` for what so many steps find. No product
    is spent on a curvature that is positive by construction.
    """
    if solution.outcome not in (Outcome.converged, Outcome.steps):
        return solution
    if matrix.semidefinite or steps == 0:
        return solution
    smallest, spent = smallest_ritz_value(matrix, b, steps=steps, seed=seed)
    return replace(
        solution,
        outcome=Outcome.negative_curvature if smallest <= 0 else solution.outcome,
        products=solution.products + spent,
        curvature=min(solution.curvature, smallest),
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


def approximation(solution: Solution, name: str, unknowns: int, usual: float) -> str | None:
    """How the solution falls short, as it was asked to; None where it does not.

    Args:
        solution: the adjoint.
        name: of the solver.
        unknowns: of the system.
        usual: the residual that passes for exact.
    """
    remains = f"a relative residual of {solution.residual:.1e} remains"
    if solution.outcome is Outcome.steps:
        return f"adjoint cut short after {solution.iterations} steps of {name}: {remains}"
    if solution.outcome is Outcome.low_rank:
        return f"adjoint by a curvature of rank {solution.iterations} of {unknowns}: {remains}"
    if solution.residual > usual:
        return f"adjoint solved loosely by {name}: {remains}"
    return None
