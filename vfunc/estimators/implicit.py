"""Implicit value: the learner at the optimum of a proximal problem, by the implicit theorem."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from vfunc import trees
from vfunc.config.allowed import check_fields
from vfunc.config.declared import option
from vfunc.errors import UserError
from vfunc.estimators.curvature import DampedCurvature, curvature_at, optimizer_preconditioner
from vfunc.estimators.estimator import register_estimator
from vfunc.estimators.proximal import ProximalSolution, solve_proximal
from vfunc.problem import ValueEstimate, ValueProblem, construct_task, entry, feedback_gradient
from vfunc.problem.arguments import require_engine
from vfunc.pullback import Engine, EngineName, Passes, pull_back
from vfunc.solvers import SOLVERS, ConjugateGradient, Neumann, Outcome, Solution, Solver
from vfunc.trees import Params
from vfunc.typecheck import typed


@register_estimator("implicit")
@dataclass(frozen=True)
class Implicit:
    """L_down(theta) - L_down(theta*), theta* = argmin L_pre + (damping / 2) |. - theta|^2.

    By the implicit function theorem, d theta* / d phi = -(H + damping I)^{-1} d g_pre / d phi, so
    the direction is (H + damping I)^{-1} grad L_down(theta*), pulled back at theta*. As
    damping -> infinity, damping * value -> V with error O(1 / damping).

    The proximal problem is always that of L_pre itself, solved by Newton's method with conjugate
    gradient. What is cut short or replaced is named in the estimate's `approximations`: steps
    that leave more than the tolerance, a Nystrom rank that does, a tolerance that leaves more
    than the usual one, the Gauss-Newton matrix, finite differences.

    theta* is a stationary point, and no saddle as far as is seen. `smallest_curvature` in the
    diagnostics is the smallest <p, (C + damping I) p> / <p, p> over the directions p that were
    met, by Newton's conjugate gradient on the way to theta* and by the solver there: an upper
    bound of the smallest eigenvalue at those points, not its value. `negative_curvature` says
    that it is not positive; at theta* itself that is refused. `ConjugateGradient` meets only what
    the gradients reach, and therefore looks in random directions too; `Neumann` and `Nystrom` draw
    some of their own; `Dense` alone sees everything.

    Gauss-Newton's steps converge linearly, and it is for problems with a `composite` form. Hessian
    products use the pullback's engine too, but for `linear`, which has none: then `auto` (see
    `curvature_at`, and `hessian_engine` in the diagnostics).

    Attributes:
        damping: weight of the proximal term, an inverse step size.
        curvature: the curvature in the linear systems; gauss_newton is approximate, and never
            negative.
        solver: how the adjoint's linear system is solved.
        solver_tolerance: relative residual at which the solvers stop, in the proximal problem and
            in the adjoint.
        inner_steps: Newton steps of the proximal problem, whatever the gap that remains;
            approximate.
        max_iterations: Newton steps, and products of their conjugate gradient in each, at most.
        engine: how the value is differentiated in the designer.
    """

    takes_g_down: ClassVar[bool] = True

    damping: float | None = option(default=None, shown="1 / learning rate", above=0)
    curvature: Literal["hessian", "gauss_newton"] = "hessian"
    solver: Solver = option(default=ConjugateGradient(), variants=SOLVERS)
    solver_tolerance: float | None = option(
        default=None, shown="1e-4, or 1e-9 in float64", above=0, below=1
    )
    inner_steps: int | None = option(default=None, shown="until --solver-tolerance", least=1)
    max_iterations: int = option(default=50, least=1, hidden=True)
    engine: EngineName | Engine = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        require_engine("engine", self.engine)
        if isinstance(self.solver, str | type) or not isinstance(self.solver, Solver):
            known = ", ".join(f"{kind.__name__}()" for kind in SOLVERS.values())
            raise UserError(f"solver must be one of {known}, or your own; not {self.solver!r}")
        if self.solver_tolerance is not None and self._adjoint_steps and self.inner_steps:
            raise UserError("solver_tolerance does nothing where both step counts are given")

    @property
    def _adjoint_steps(self) -> int | None:
        return self.solver.steps if isinstance(self.solver, ConjugateGradient | Neumann) else None

    @property
    def _preconditions(self) -> bool:
        solver = self.solver
        return isinstance(solver, ConjugateGradient) and solver.precondition == "optimizer"

    @entry
    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first of the problem's batches is used.

        Raises:
            NotConvergedError: the proximal problem or the adjoint was not solved.
            UserError: the problem lacks what `curvature` or the preconditioner needs, or a
                positive eta where no damping is given; its loss has a stop-gradient; or the
                optimizer climbs (`maximize`).
        """
        if problem.stop_gradient:
            raise UserError(
                "implicit solves for a minimum of L_pre, and a loss with a stop-gradient has none: "
                "its gradient is no function's; take first_order or unrolled"
            )
        problem.rule.require_descent("implicit")
        damping = _one_over_eta(problem) if self.damping is None else self.damping
        tolerance = self.solver_tolerance or _tolerance(theta)
        construction = construct_task(problem, phi, problem.batches[0])
        diagonal = (
            optimizer_preconditioner(problem, theta, damping) if self._preconditions else None
        )

        def matrix_at(point: Params) -> DampedCurvature:
            return curvature_at(problem, point, construction, damping, self.curvature, self.engine)

        inner = solve_proximal(
            problem,
            theta,
            construction,
            damping,
            tolerance,
            max_iterations=self.max_iterations,
            curvature_at=matrix_at,
            steps=self.inner_steps,
            preconditioner=diagonal,
        )
        before, g_down = feedback_gradient(problem, theta)
        after, star_down = feedback_gradient(problem, inner.theta)
        matrix = matrix_at(inner.theta)
        adjoint = self.solver(
            matrix, star_down, tolerance=tolerance, seed=problem.seed, preconditioner=diagonal
        ).require(f"implicit, adjoint at damping {damping:g}", self._advice(problem))
        matrix.forget()
        pulled = pull_back(problem, inner.theta, construction, adjoint.x, self.engine)
        pulled = replace(
            pulled,
            passes=inner.passes + matrix.spent + pulled.passes,
            hessian_engine=matrix.by,
        )
        smallest = min(inner.curvature, adjoint.curvature)
        return pulled.estimate(
            before - after,
            1 / damping,
            {
                "g_down_norm": float(trees.norm(g_down)),
                "step_norm": float(trees.norm(trees.axpy(-1.0, theta, inner.theta))),
                "damping": damping,
                "curvature": self.curvature,
                "solver": self.solver.name,
                "inner_gap": inner.gap,
                "inner_iterations": inner.iterations,
                "adjoint_residual": adjoint.residual,
                "adjoint_iterations": adjoint.iterations,
                "smallest_curvature": smallest,
                "negative_curvature": smallest <= 0,
            },
            spent=Passes(forwards=2, backwards=2),
            approximations=self._approximations(inner, adjoint, tolerance),
        )

    def _advice(self, problem: ValueProblem) -> str:
        """What else would help where a curvature is negative."""
        replaceable = self.curvature == "hessian" and problem.composite is not None
        return ", or take --curvature gauss_newton" if replaceable else ""

    def _approximations(
        self, inner: ProximalSolution, adjoint: Solution, tolerance: float
    ) -> tuple[str, ...]:
        usual = _tolerance(inner.theta)
        remains = f"a relative gradient of {inner.gap:.1e} remains"
        found = []
        if inner.gap > tolerance:
            steps = f"{inner.iterations} Newton steps"
            found.append(f"proximal problem cut short after {steps}: {remains}")
        elif inner.gap > usual:
            found.append(f"proximal problem solved loosely: {remains}")
        if self.curvature == "gauss_newton":
            found.append("adjoint by the Gauss-Newton matrix in place of the Hessian")
        return (*found, *_shortfall(adjoint, self.solver.name, usual))


def _shortfall(adjoint: Solution, solver: str, usual: float) -> tuple[str, ...]:
    """How the adjoint falls short, as it was asked to, in a phrase; none where it does not.

    Args:
        adjoint: the solution.
        solver: the solver's name.
        usual: the residual that passes for exact.
    """
    remains = f"a relative residual of {adjoint.residual:.1e} remains"
    if adjoint.outcome is Outcome.steps:
        return (f"adjoint cut short after {adjoint.iterations} steps of {solver}: {remains}",)
    if adjoint.outcome is Outcome.low_rank:
        unknowns = sum(x.numel() for x in adjoint.x.values())
        rank = f"rank {adjoint.iterations} of {unknowns}"
        return (f"adjoint by a curvature of {rank}: {remains}",)
    if adjoint.residual > usual:
        return (f"adjoint solved loosely by {solver}: {remains}",)
    return ()


def _one_over_eta(problem: ValueProblem) -> float:
    if not problem.rule.eta > 0:
        raise UserError(
            f"implicit takes its damping as 1 / eta, and eta is {problem.rule.eta:g} here; give "
            "--damping"
        )
    return 1 / problem.rule.eta


def _tolerance(theta: Params) -> float:
    return 1e-9 if all(x.element_size() >= 8 for x in theta.values()) else 1e-4
