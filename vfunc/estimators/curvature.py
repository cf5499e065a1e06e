"""The damped curvature of the implicit estimator's linear systems, and a preconditioner for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem import Construction, ValueProblem
from vfunc.pullback import (
    ENGINES,
    GRADIENT,
    Engine,
    JointGradient,
    Passes,
    attention_for,
    kept_gradient,
    mixed_product,
)
from vfunc.pullback.gauss_newton import GaussNewton
from vfunc.pullback.missing import MissingDerivativeError, missing_told
from vfunc.simulate import Adam, TensorState
from vfunc.trees import Params

Product = Callable[[Params], tuple[Params, Passes, str]]
"""x -> (C x, the learner passes spent, what computed it)."""


@dataclass
class _Hessian:
    """H x at one point; all products share one gradient with its graph, where there is room.

    Attributes:
        problem: gives L_pre.
        theta: the point.
        construction: the task.
        engine: what computes the products.
        joint: the gradient with its graph, from the first product to `forget`.
        asked: whether there has been a product.
    """

    problem: ValueProblem
    theta: Params
    construction: Construction
    engine: str | Engine
    joint: JointGradient | None = None
    asked: bool = False

    def __call__(self, x: Params) -> tuple[Params, Passes, str]:
        spent = Passes()
        if not self.asked:
            self.asked = True
            self.joint = kept_gradient(
                self.problem, self.theta, self.construction, self.engine, hessian=True
            )
            spent = Passes() if self.joint is None else GRADIENT
        product = mixed_product(
            self.problem,
            self.theta,
            self.construction,
            x,
            self.engine,
            hessian=True,
            repeated=True,
            joint=self.joint,
        )
        assert product.hessian is not None
        return product.hessian, spent + product.passes, product.engine

    def forget(self) -> None:
        """Let go of the graph; a later product makes another."""
        self.joint, self.asked = None, False


@dataclass
class DampedCurvature:
    """x -> (C + damping I) x at one point; counts what its products spend.

    Attributes:
        product: with C alone.
        damping: the proximal lambda.
        spent: learner passes so far.
        by: what computed the products: an engine's name; empty before the first.
        semidefinite: whether C is positive semi-definite by construction.
    """

    product: Product
    damping: float
    spent: Passes
    by: str = ""
    semidefinite: bool = False

    def forget(self) -> None:
        """Let go of what the products share, a graph, which is in the way of others."""
        if isinstance(self.product, _Hessian):
            self.product.forget()

    def undamped(self, x: Params) -> Params:
        """C x."""
        cx, passes, self.by = self.product(x)
        self.spent = self.spent + passes
        return cx

    def __call__(self, x: Params) -> Params:
        """(C + damping I) x."""
        return trees.axpy(self.damping, x, self.undamped(x))


def curvature_at(
    problem: ValueProblem,
    theta: Params,
    construction: Construction,
    damping: float,
    curvature: str,
    engine: str | Engine,
) -> DampedCurvature:
    """The damped Hessian of L_pre at theta, or its damped Gauss-Newton matrix.

    The Hessian's products are the engine's, but for `linear`, which has none: then `auto`'s. The
    Gauss-Newton matrix has products of its own, by a tangent pass, or by differences of the
    outputs where the engine or the learner's kernels ask for them.

    Args:
        problem: gives L_pre, and its composite form.
        theta: the point.
        construction: the task.
        damping: the proximal lambda.
        curvature: `hessian` or `gauss_newton`.
        engine: `auto`, an engine's name, or an engine.

    Raises:
        UserError: `gauss_newton` for a problem without a composite form.
    """
    name = engine if isinstance(engine, str) else engine.name
    if curvature == "hessian":
        by = "auto" if name == "linear" else engine
        return DampedCurvature(_Hessian(problem, theta, construction, by), damping, Passes())
    if problem.composite is None:
        raise UserError(
            "curvature 'gauss_newton' needs a loss that is convex in the learner's outputs, and "
            "the problem declares no `composite` form; take curvature 'hessian'"
        )
    differences = name == "finite_difference" or problem.no_second_order is not None
    composite, task = problem.composite, construction.task

    def matrix_by(differences: bool) -> tuple[GaussNewton, Engine]:
        kernels = ENGINES["finite_difference" if differences else "forward"]
        with attention_for(kernels):
            matrix = GaussNewton.at(
                composite,
                theta,
                task,
                differences=differences,
                compute_dtype=problem.compute_dtype,
            )
        return matrix, kernels

    made = [matrix_by(differences)]

    def gauss_newton(x: Params) -> tuple[Params, Passes, str]:
        matrix, kernels = made[0]
        try:
            with attention_for(kernels), missing_told(kernels.name):
                product = matrix(x)
        except MissingDerivativeError:
            if kernels.name == "finite_difference" or name != "auto":
                raise
            made[0] = matrix_by(True)  # as auto does it for the Hessian
            return gauss_newton(x)
        return problem.processes.summed(product), matrix.one, kernels.name

    return DampedCurvature(gauss_newton, damping, made[0][0].built, semidefinite=True)


def optimizer_preconditioner(problem: ValueProblem, theta: Params, damping: float) -> Params:
    """M = sqrt(v / c2) + eps + damping, by name: what AdamW divides by, damped as the system is.

    v is the second moment after t steps and c2 = 1 - beta2^t corrects its bias; a parameter that
    has taken no step has v = 0, and conjugate gradient sees a constant there.

    Raises:
        UserError: an optimizer without second moments.
    """
    diagonal = {}
    for name, x in theta.items():
        rule, state = problem.rule.rule(name), problem.state.get(name, TensorState())
        if not isinstance(rule, Adam):
            raise UserError(
                f"precondition 'optimizer' takes Adam's or AdamW's second moments, and the "
                f"learner's optimizer is {type(rule).__name__}, which has none"
            )
        v = state.buffers.get("exp_avg_sq", torch.zeros_like(x))
        c2 = 1 - rule.betas[1] ** max(state.step, 1)
        diagonal[name] = (v / c2).sqrt() + rule.eps + damping
    return diagonal
