"""Unrolled lookahead: K simulated learner steps, differentiated by their adjoint."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators.estimator import register_estimator
from vfunc.problem import (
    ValueEstimate,
    ValueProblem,
    construct_task,
    feedback_gradient,
    pretrain_gradient,
)
from vfunc.pullback import GRADIENT, Engine, Passes, mixed_product
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params
from vfunc.typecheck import typed


@dataclass(frozen=True)
class _Step:
    """What one simulated step leaves for its adjoint: copies of theta_S size, no activations."""

    rule: UpdateRule
    theta: Params
    state: OptimizerState
    g: Params


@register_estimator("unrolled")
@dataclass(frozen=True)
class Unrolled:
    """L_down(theta_0) - L_down(theta_K) after K simulated optimizer steps on B_0 ... B_{K-1}.

    The gradient is exact: lambda_K = (grad L_down(theta_K), 0) is carried back by
    lambda_k = (d s_{k+1} / d s_k)^T lambda_{k+1}, s = (theta, optimizer state), the total
    derivative, through g_k too. Per step one second-order pass over the joint gradient (in theta
    and in the task) along w_k = -(dU / dg_k)^T lambda_{k+1} gives both the Hessian product that
    moves the adjoint and the pullback that the designer needs. The first step (k = 0) needs the
    pullback alone.

    Attributes:
        lookahead_steps: K.
        engine: `auto`, an engine's name, or an engine.
    """

    lookahead_steps: int = 1
    engine: str | Engine = "auto"

    def __post_init__(self) -> None:
        if self.lookahead_steps < 1:
            raise UserError(f"lookahead_steps must be at least 1, not {self.lookahead_steps}")

    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first K of the problem's batches are used in turn."""
        count = self.lookahead_steps
        if len(problem.batches) < count:
            raise UserError(
                f"lookahead_steps {count} needs as many unlabeled batches; "
                f"the problem has {len(problem.batches)}"
            )
        before, g_down = feedback_gradient(problem, theta)
        steps: list[_Step] = []
        rule, state, point = problem.rule, problem.state, theta
        for batch in problem.batches[:count]:
            # the task is made again on the way back: its graph is not kept for K steps
            task = construct_task(problem, phi, batch).task
            g = pretrain_gradient(problem, point, task)
            steps.append(_Step(rule, point, state, g))
            point, state = rule.step(point, state, g)
            rule = rule.later()
        after, theta_bar = feedback_gradient(problem, point)
        grad, product_notes = self._adjoint(problem, phi, steps, theta_bar)
        value = before - after
        first = trees.dot(g_down, trees.axpy(-1.0, point, theta))
        return ValueEstimate(
            value,
            value,
            grad,
            count * problem.rule.eta,
            {
                "g_down_norm": float(trees.norm(g_down)),
                "step_norm": float(trees.norm(trees.axpy(-1.0, theta, point))),
                # what the straight line from theta_0 predicts, and what curvature takes from it
                "first_order_value": float(first),
                "curvature_term": float(value - first),
                **product_notes,
                **problem.rule.notes(count),
            },
        )

    def _adjoint(
        self, problem: ValueProblem, phi: Params, steps: list[_Step], theta_bar: Params
    ) -> tuple[Params, dict[str, float | int | bool | str]]:
        state_bar: dict[str, dict] = {}
        grad = trees.zeros_like(phi)
        spent = Passes(forwards=2, backwards=2)  # the two gradients of L_down
        engines: dict[str, str] = {}  # `auto` may take another one where no Hessian is needed
        for k, step in reversed(list(enumerate(steps))):
            construction = construct_task(problem, phi, problem.batches[k])
            direct, state_bar, g_bar = step.rule.vjp(
                step.theta, step.state, step.g, theta_bar, state_bar
            )
            w = trees.scale(g_bar, -1.0)
            product, chosen = mixed_product(
                problem, step.theta, construction, w, self.engine, hessian=k > 0
            )
            grad = trees.axpy(1.0, construction.pull(product.task), grad)
            if product.hessian is not None:
                theta_bar = trees.axpy(-1.0, product.hessian, direct)
            spent = spent + GRADIENT + product.passes
            engines.setdefault(chosen.engine.name, chosen.why)
        return grad, {
            **spent.as_diagnostics(),
            **product.diagnostics,
            "engine": ", ".join(engines),
            "engine_why": "; ".join(engines.values()),
        }
