"""First-order value: V = <g_down, g_pre>, its cosine, and the optimizer's own step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vfunc import trees
from vfunc.config.allowed import check_fields
from vfunc.errors import NonFiniteError
from vfunc.estimators.estimator import register_estimator
from vfunc.problem import (
    Construction,
    ValueEstimate,
    ValueProblem,
    construct_task,
    entry,
    feedback_gradient,
    pretrain_gradient,
    step_gradient,
)
from vfunc.problem.arguments import require_engine
from vfunc.pullback import GRADIENT, Engine, EngineName, Passes, pull_back
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed

Value = Literal["dot", "cosine", "preconditioned"]


@register_estimator("first_order")
@dataclass(frozen=True)
class FirstOrder:
    """How much one learner step on c_phi(B_0) lowers L_down, to first order in eta.

    `dot`: the value and objective are eta V, V = <g_down, g_pre> (paper, equation 9), the
    direction eta g_down. `cosine`: the value is eta V, the objective cos(g_down, g_pre), which does
    not grow with |g_pre|. `preconditioned`: both are -<g_down, d>, d the optimizer's own next step
    (equation 35), with its moments, weight decay, accumulation and clipping. Where eta is zero, as
    in the first step of a warm-up, so is the value; the objectives of dot and preconditioned are
    then those of eta = 1.

    Attributes:
        value: what to raise: the product of the two gradients, their cosine, or the product after
            the optimizer's own preconditioning.
        engine: how the value is differentiated in the designer.
    """

    takes_g_down: ClassVar[bool] = True

    value: Value = "dot"
    engine: EngineName | Engine = "auto"

    def __post_init__(self) -> None:
        check_fields(self)
        require_engine("engine", self.engine)

    @entry
    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first of the problem's batches is used."""
        construction = construct_task(problem, phi, problem.batches[0])
        _, g_down = feedback_gradient(problem, theta)
        if self.value == "dot":
            return self._dot(problem, theta, construction, g_down)
        if self.value == "cosine":
            return self._cosine(problem, theta, construction, g_down)
        return self._preconditioned(problem, theta, construction, g_down)

    def _dot(
        self, problem: ValueProblem, theta: Params, construction: Construction, g_down: Params
    ) -> ValueEstimate:
        rule = problem.rule
        w = rule.at_unit.sized(g_down)
        pulled = pull_back(problem, theta, construction, w, self.engine)
        notes = {"g_down_norm": float(trees.norm(g_down))}
        value = pulled.inner if rule.eta else torch.zeros_like(pulled.inner)
        return pulled.estimate(value, rule.unit, notes, spent=GRADIENT, objective=pulled.inner)

    def _cosine(
        self, problem: ValueProblem, theta: Params, construction: Construction, g_down: Params
    ) -> ValueEstimate:
        g_pre = pretrain_gradient(problem, theta, construction.task)
        pre = trees.norm(g_pre)
        cosine = trees.cosine(g_down, g_pre)
        if not torch.isfinite(cosine):
            raise NonFiniteError(
                f"the cosine of g_down and g_pre is undefined: |g_down| is "
                f"{float(trees.norm(g_down)):.3g} and |g_pre| {float(pre):.3g}; --value "
                "dot is zero there"
            )
        # d cos / d g_pre
        across = trees.axpy(
            -cosine, trees.scale(g_pre, 1 / pre), trees.scale(g_down, 1 / trees.norm(g_down))
        )
        w = trees.scale(across, 1 / pre)
        pulled = pull_back(problem, theta, construction, w, self.engine)
        value = trees.dot(problem.rule.sized(g_down), g_pre)
        notes = alignment(g_down, g_pre)
        return pulled.estimate(value, 1.0, notes, objective=cosine, spent=GRADIENT + GRADIENT)

    def _preconditioned(
        self, problem: ValueProblem, theta: Params, construction: Construction, g_down: Params
    ) -> ValueEstimate:
        g_pre = step_gradient(problem, theta, construction.task)
        rule = problem.rule.at_unit
        after, _ = rule.step(theta, problem.state, g_pre)
        objective = -trees.dot(g_down, trees.axpy(-1.0, theta, after))
        value = objective if problem.rule.eta else torch.zeros_like(objective)
        _, _, g_bar = rule.vjp(theta, problem.state, g_pre, g_down, {})
        w = trees.scale(g_bar, -1.0)
        pulled = pull_back(problem, theta, construction, w, self.engine)
        notes = alignment(g_down, trees.filled(g_pre, theta))
        return pulled.estimate(
            value,
            problem.rule.unit,
            notes,
            objective=objective,
            spent=GRADIENT + GRADIENT,
            further=problem.rule.notes(),
        )


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
    return trees.dot(problem.rule.sized(g_down), g_pre), GRADIENT
