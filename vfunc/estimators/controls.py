"""Controls: what a designer learns from no feedback at all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from vfunc import trees
from vfunc.config.allowed import check_fields
from vfunc.estimators.estimator import register_estimator
from vfunc.estimators.first_order import first_order_value
from vfunc.problem import ValueEstimate, ValueProblem, construct_task, entry, feedback_gradient
from vfunc.problem.arguments import require_engine
from vfunc.pullback import GRADIENT, Engine, EngineName, pull_back
from vfunc.trees import Params
from vfunc.typecheck import typed


@register_estimator("random")
@dataclass(frozen=True)
class RandomDirection:
    """g_down replaced by a random direction of its norm (the paper's random feedback).

    The value is first order's; the objective is <w, g_pre>, w drawn from the problem's seed and
    held, so that it is an honest function of phi within a call.

    Attributes:
        engine: how the value is differentiated in the designer.
    """

    takes_g_down: ClassVar[bool] = True
    g_down_alone: ClassVar[bool] = True
    repeats: ClassVar[bool] = True

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
        value, spent = first_order_value(problem, theta, construction, g_down)
        drawn = trees.normal_like(g_down, torch.Generator().manual_seed(problem.seed))
        w = trees.scale(drawn, trees.norm(g_down) / trees.norm(drawn))
        pulled = pull_back(problem, theta, construction, w, self.engine)
        notes = {"g_down_norm": float(trees.norm(g_down))}
        return pulled.estimate(
            value, 1.0, notes, objective=pulled.inner, spent=GRADIENT + spent, repeats=True
        )


@register_estimator("zero")
@dataclass(frozen=True)
class Zero:
    """No gradient: the designer stays as it was drawn. The value is first order's."""

    takes_g_down: ClassVar[bool] = True
    g_down_alone: ClassVar[bool] = True

    @entry
    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first of the problem's batches is used."""
        construction = construct_task(problem, phi, problem.batches[0])
        _, g_down = feedback_gradient(problem, theta)
        value, spent = first_order_value(problem, theta, construction, g_down)
        return ValueEstimate(
            value,
            torch.zeros_like(value),
            trees.zeros_like(phi),
            1.0,
            {"g_down_norm": float(trees.norm(g_down)), **(GRADIENT + spent).as_diagnostics()},
        )
