"""First-order value: V = <g_down, g_pre>, its cosine, and the optimizer's own step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators.estimator import register_estimator
from vfunc.problem import (
    Construction,
    ValueEstimate,
    ValueProblem,
    construct_task,
    feedback_gradient,
    pretrain_gradient,
    step_gradient,
)
from vfunc.pullback import GRADIENT, Engine, Passes, differenced, pull_back
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed

Value = Literal["dot", "cosine", "preconditioned"]


@register_estimator("first_order")
@dataclass(frozen=True)
class FirstOrder:
    """How much one learner step on c_phi(B_0) lowers L_down, to first order in eta.

    Attributes:
        value: `dot`: the value and objective are eta V, V = <g_down, g_pre> (paper, equation 9),
            the direction eta g_down. `cosine`: the value is eta V, the objective
            cos(g_down, g_pre), which does not grow with |g_pre|. `preconditioned`: both are
            -<g_down, d>, d the optimizer's own next step (equation 35), with its moments, weight
            decay, accumulation and clipping.
        engine: `auto`, an engine's name, or an engine.
    """

    value: Value = "dot"
    engine: str | Engine = "auto"

    def __post_init__(self) -> None:
        if self.value not in get_args(Value):
            raise UserError(f"unknown value {self.value!r}; known: {', '.join(get_args(Value))}")

    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first of the problem's batches is used."""
        construction = construct_task(problem, phi, problem.batches[0])
        _, g_down = feedback_gradient(problem, theta)
        if self.value == "dot":
            return self._dot(problem, theta, construction, g_down)
        if self.value == "cosine":
            g_pre = pretrain_gradient(problem, theta, construction.task)
            return self._cosine(problem, theta, construction, g_down, g_pre)
        return self._preconditioned(problem, theta, construction, g_down)

    def _dot(
        self, problem: ValueProblem, theta: Params, construction: Construction, g_down: Params
    ) -> ValueEstimate:
        w = stepped(problem, g_down)
        grad, product, chosen = pull_back(problem, theta, construction, w, self.engine)
        spent = GRADIENT + product.passes
        return ValueEstimate(
            product.inner,
            product.inner,
            grad,
            problem.rule.eta,
            {
                "g_down_norm": float(trees.norm(g_down)),
                **spent.as_diagnostics(),
                **product.diagnostics,
                "engine": chosen.engine.name,
                "engine_why": chosen.why,
            },
            differenced(chosen.engine.name, product.diagnostics),
        )

    def _cosine(
        self,
        problem: ValueProblem,
        theta: Params,
        construction: Construction,
        g_down: Params,
        g_pre: Params,
    ) -> ValueEstimate:
        pre = trees.norm(g_pre)
        cosine = trees.cosine(g_down, g_pre)
        # d cos / d g_pre; a zero gradient has no direction, and the loop reports the NaN
        across = trees.axpy(
            -cosine, trees.scale(g_pre, 1 / pre), trees.scale(g_down, 1 / trees.norm(g_down))
        )
        w = trees.scale(across, 1 / pre)
        grad, product, chosen = pull_back(problem, theta, construction, w, self.engine)
        value = trees.dot(stepped(problem, g_down), g_pre)
        return ValueEstimate(
            value,
            cosine,
            grad,
            1.0,
            {
                **alignment(g_down, g_pre),
                **(GRADIENT + GRADIENT + product.passes).as_diagnostics(),
                **product.diagnostics,
                "engine": chosen.engine.name,
                "engine_why": chosen.why,
            },
            differenced(chosen.engine.name, product.diagnostics),
        )

    def _preconditioned(
        self,
        problem: ValueProblem,
        theta: Params,
        construction: Construction,
        g_down: Params,
    ) -> ValueEstimate:
        g_pre = step_gradient(problem, theta, construction.task)
        after, _ = problem.rule.step(theta, problem.state, g_pre)
        value = -trees.dot(g_down, trees.axpy(-1.0, theta, after))
        _, _, g_bar = problem.rule.vjp(theta, problem.state, g_pre, g_down, {})
        w = trees.scale(g_bar, -1.0)
        grad, product, chosen = pull_back(problem, theta, construction, w, self.engine)
        return ValueEstimate(
            value,
            value,
            grad,
            problem.rule.eta,
            {
                **alignment(g_down, trees.filled(g_pre, theta)),
                **(GRADIENT + GRADIENT + product.passes).as_diagnostics(),
                **product.diagnostics,
                **problem.rule.notes(),
                "engine": chosen.engine.name,
                "engine_why": chosen.why,
            },
            differenced(chosen.engine.name, product.diagnostics),
        )


def stepped(problem: ValueProblem, g_down: Params) -> Params:
    """eta g_down, each parameter with its own group's eta."""
    return {name: problem.rule.learning_rate(name) * g for name, g in g_down.items()}


def alignment(g_down: Params, g_pre: Params) -> dict[str, float]:
    """Norms of the two gradients and their cosine, for the diagnostics."""
    return {
        "g_down_norm": float(trees.norm(g_down)),
        "g_pre_norm": float(trees.norm(g_pre)),
        "cosine": float(trees.cosine(g_down, g_pre)),
    }


def first_order_value(
    problem: ValueProblem, theta: Params, construction: Construction, g_down: Params
) -> tuple[Scalar, Passes]:
    """eta V alone, from one plain gradient."""
    g_pre = pretrain_gradient(problem, theta, construction.task)
    return trees.dot(stepped(problem, g_down), g_pre), GRADIENT
