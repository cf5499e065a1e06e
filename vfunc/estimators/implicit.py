"""Implicit value: the learner at the optimum of a proximal problem, by the implicit theorem."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators.estimator import register_estimator
from vfunc.estimators.proximal import DampedHessian, solve_proximal
from vfunc.problem import ValueEstimate, ValueProblem, construct_task, feedback_gradient
from vfunc.pullback import Engine, Passes, pull_back
from vfunc.solvers import conjugate_gradient
from vfunc.trees import Params
from vfunc.typecheck import typed


@register_estimator("implicit")
@dataclass(frozen=True)
class Implicit:
    """L_down(theta) - L_down(theta*), theta* = argmin L_pre + (damping / 2) |. - theta|^2.

    By the implicit function theorem, d theta* / d phi = -(H + damping I)^{-1} d g_pre / d phi, so
    the direction is (H + damping I)^{-1} grad L_down(theta*), pulled back at theta*. As
    damping -> infinity, damping * value -> V with error O(1 / damping).

    Attributes:
        damping: the proximal lambda, an inverse step size; None takes 1 / eta.
        solver_tolerance: relative, on the proximal problem's gradient and on the adjoint's
            residual; None takes 1e-4, or 1e-9 where theta is in float64.
        max_iterations: of conjugate gradient, each time, and of Newton steps.
        engine: `auto`, an engine's name, or an engine; of the pullback. The Hessian products use
            it too, but for `linear`, which has none: then `auto` (see `hessian_engine` in the
            diagnostics).
    """

    damping: float | None = None
    solver_tolerance: float | None = None
    max_iterations: int = 50
    engine: str | Engine = "auto"

    def __post_init__(self) -> None:
        if self.damping is not None and not self.damping > 0:
            raise UserError(f"damping must be positive, not {self.damping}")
        if self.solver_tolerance is not None and not 0 < self.solver_tolerance < 1:
            raise UserError(f"solver_tolerance must be in (0, 1), not {self.solver_tolerance}")
        if self.max_iterations < 1:
            raise UserError(f"max_iterations must be at least 1, not {self.max_iterations}")

    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first of the problem's batches is used.

        Raises:
            NotConvergedError: the proximal problem or the adjoint was not solved.
        """
        damping = 1 / problem.rule.eta if self.damping is None else self.damping
        tolerance = self.solver_tolerance or _tolerance(theta)
        construction = construct_task(problem, phi, problem.batches[0])
        inner = solve_proximal(
            problem, theta, construction, damping, tolerance, self.max_iterations, self.engine
        )
        before, g_down = feedback_gradient(problem, theta)
        after, star_down = feedback_gradient(problem, inner.theta)
        spent = Passes(forwards=2, backwards=2) + inner.passes

        hessian = DampedHessian(problem, inner.theta, construction, damping, self.engine)
        adjoint = conjugate_gradient(
            hessian, star_down, tolerance=tolerance, max_iterations=self.max_iterations
        ).require(f"implicit, adjoint at damping {damping:g}")
        spent = spent + hessian.passes(adjoint.iterations)
        grad, product, chosen = pull_back(
            problem, inner.theta, construction, adjoint.x, self.engine
        )
        value = before - after
        return ValueEstimate(
            value,
            value,
            grad,
            1 / damping,
            {
                "g_down_norm": float(trees.norm(g_down)),
                "step_norm": float(trees.norm(trees.axpy(-1.0, theta, inner.theta))),
                "damping": damping,
                "inner_gap": inner.gap,
                "inner_iterations": inner.iterations,
                "adjoint_residual": adjoint.residual,
                "adjoint_iterations": adjoint.iterations,
                "smallest_curvature": min(inner.curvature, adjoint.curvature),
                **(spent + product.passes).as_diagnostics(),
                **product.diagnostics,
                "engine": chosen.engine.name,
                "hessian_engine": hessian.engine_name,
                "engine_why": chosen.why,
            },
        )


def _tolerance(theta: Params) -> float:
    return 1e-9 if all(x.element_size() >= 8 for x in theta.values()) else 1e-4
