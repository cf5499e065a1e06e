"""Implicit value: the learner at the optimum of a proximal problem, by the implicit theorem."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators.adjoint import (
    NYSTROM_RANK,
    AdjointSolver,
    approximation,
    check_solver,
)
from vfunc.estimators.curvature import (
    CURVATURES,
    DampedCurvature,
    curvature_at,
    optimizer_preconditioner,
)
from vfunc.estimators.estimator import register_estimator
from vfunc.estimators.proximal import ProximalSolution, solve_proximal
from vfunc.problem import ValueEstimate, ValueProblem, construct_task, feedback_gradient
from vfunc.pullback import Engine, Passes, differenced, pull_back
from vfunc.solvers import Solution
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
    that it is not positive; at theta* itself that is refused. cg meets only what the gradients
    reach, and therefore looks in random directions too (`probe_steps`); neumann and nystrom draw
    some of their own; dense alone sees everything.

    Attributes:
        damping: the proximal lambda, an inverse step size; None takes 1 / eta.
        curvature: `hessian`, or `gauss_newton` in the Newton steps and the adjoint: never
            negative, but its steps converge linearly; for problems with a `composite` form.
        solver: of the adjoint's system: `cg`; `neumann`, linear in the feedback gradient, with
            more products; `nystrom`, approximate, a fixed number of products; `dense`, for few
            parameters.
        solver_tolerance: relative, on the proximal problem's gradient and on the adjoint's
            residual; None takes 1e-4, or 1e-9 where theta is in float64.
        solver_steps: of cg or neumann on the adjoint, whatever the residual; None goes on until
            the tolerance is met.
        inner_steps: Newton steps, whatever the gap; None goes on until the tolerance is met.
        nystrom_rank: of the solver nystrom; None takes 20.
        precondition: `optimizer` preconditions conjugate gradient by the second moments of Adam
            or AdamW (see `optimizer_preconditioner`); None is `none`.
        max_iterations: of cg and neumann, each time, and of Newton steps.
        probe_steps: Lanczos steps from a random start at theta*, that look for the negative
            curvature which the solver cg cannot meet; a product each, 0 for none. Three find what
            is of the largest curvature's size; a network's saddle can have a hundredth of that,
            and take thirty (see `smallest_ritz_value`).
        engine: `auto`, an engine's name, or an engine; of the pullback. The Hessian products use
            it too, but for `linear`, which has none: then `auto` (see `curvature_at`, and
            `hessian_engine` in the diagnostics).
    """

    damping: float | None = None
    curvature: str = "hessian"
    solver: str = "cg"
    solver_tolerance: float | None = None
    solver_steps: int | None = None
    inner_steps: int | None = None
    nystrom_rank: int | None = None
    precondition: str | None = None
    max_iterations: int = 50
    probe_steps: int = 3
    engine: str | Engine = "auto"

    def __post_init__(self) -> None:
        if self.damping is not None and not self.damping > 0:
            raise UserError(f"damping must be positive, not {self.damping}")
        if self.curvature not in CURVATURES:
            raise UserError(f"unknown curvature {self.curvature!r}; known: {', '.join(CURVATURES)}")
        check_solver(self.solver, self.solver_steps, self.nystrom_rank, self.precondition)
        if self.solver_tolerance is not None and not 0 < self.solver_tolerance < 1:
            raise UserError(f"solver_tolerance must be in (0, 1), not {self.solver_tolerance}")
        if self.solver_tolerance is not None and self.solver_steps and self.inner_steps:
            raise UserError("solver_tolerance does nothing where both step counts are given")
        if self.inner_steps is not None and self.inner_steps < 1:
            raise UserError(f"inner_steps must be at least 1, not {self.inner_steps}")
        if self.max_iterations < 1:
            raise UserError(f"max_iterations must be at least 1, not {self.max_iterations}")
        if self.probe_steps < 0:
            raise UserError(f"probe_steps must be at least 0, not {self.probe_steps}")

    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first of the problem's batches is used.

        Raises:
            NotConvergedError: the proximal problem or the adjoint was not solved.
            UserError: the problem lacks what `curvature` or `precondition` needs, or a positive
                eta where no damping is given.
        """
        damping = _one_over_eta(problem) if self.damping is None else self.damping
        tolerance = self.solver_tolerance or _tolerance(theta)
        construction = construct_task(problem, phi, problem.batches[0])
        diagonal = (
            optimizer_preconditioner(problem, theta, damping)
            if self.precondition == "optimizer"
            else None
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
        rank = self.nystrom_rank or NYSTROM_RANK
        solve = AdjointSolver(
            self.solver,
            tolerance,
            self.max_iterations,
            self.solver_steps,
            rank,
            problem.seed,
            self.probe_steps,
        )
        advice = (
            ", or take --curvature gauss_newton"
            if self.curvature == "hessian" and problem.composite is not None
            else ""
        )
        adjoint = solve(matrix, star_down, diagonal).require(
            f"implicit, adjoint at damping {damping:g}", advice
        )
        grad, product, chosen = pull_back(
            problem, inner.theta, construction, adjoint.x, self.engine
        )
        value = before - after
        spent = Passes(forwards=2, backwards=2) + inner.passes + matrix.spent + product.passes
        smallest = min(inner.curvature, adjoint.curvature)
        engines = f"{chosen.engine.name}, {matrix.by}"
        return ValueEstimate(
            value,
            value,
            grad,
            1 / damping,
            {
                "g_down_norm": float(trees.norm(g_down)),
                "step_norm": float(trees.norm(trees.axpy(-1.0, theta, inner.theta))),
                "damping": damping,
                "curvature": self.curvature,
                "solver": self.solver,
                "inner_gap": inner.gap,
                "inner_iterations": inner.iterations,
                "adjoint_residual": adjoint.residual,
                "adjoint_iterations": adjoint.iterations,
                "smallest_curvature": smallest,
                "negative_curvature": smallest <= 0,
                **spent.as_diagnostics(),
                **product.diagnostics,
                "engine": chosen.engine.name,
                "hessian_engine": matrix.by,
                "engine_why": chosen.why,
            },
            (
                *self._approximations(inner, adjoint, tolerance),
                *differenced(engines, product.diagnostics),
            ),
        )

    def _approximations(
        self, inner: ProximalSolution, adjoint: Solution, tolerance: float
    ) -> tuple[str, ...]:
        found = []
        usual = _tolerance(inner.theta)
        if inner.gap > tolerance:
            found.append(
                f"proximal problem cut short after {inner.iterations} Newton steps: a relative "
                f"gradient of {inner.gap:.1e} remains"
            )
        elif inner.gap > usual:
            found.append(
                f"proximal problem solved loosely: a relative gradient of {inner.gap:.1e} remains"
            )
        if self.curvature == "gauss_newton":
            found.append("adjoint by the Gauss-Newton matrix in place of the Hessian")
        unknowns = sum(x.numel() for x in inner.theta.values())
        short = approximation(adjoint, self.solver, unknowns, usual)
        return (*found, *([short] if short else []))


def _one_over_eta(problem: ValueProblem) -> float:
    if not problem.rule.eta > 0:
        raise UserError(
            f"implicit takes its damping as 1 / eta, and eta is {problem.rule.eta:g} here; give "
            "--damping"
        )
    return 1 / problem.rule.eta


def _tolerance(theta: Params) -> float:
    return 1e-9 if all(x.element_size() >= 8 for x in theta.values()) else 1e-4
