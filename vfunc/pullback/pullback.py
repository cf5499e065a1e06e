"""A direction in learner space, pulled back to the designer: the gradient, and what it took."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem import Construction, ValueEstimate, ValueProblem, construct_task, entry
from vfunc.problem.purity import version_of
from vfunc.pullback.engine import Engine, JointGradient, Passes
from vfunc.pullback.hidden_way import require_no_hidden_way
from vfunc.pullback.product import mixed_product
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed

DIFFERENCES = "finite differences of the learner's gradient"
"""How the phrase of `differenced` begins."""


@dataclass(frozen=True, repr=False)
class Pullback:
    """grad_phi <w, grad_theta L_pre(theta; c_phi)>, w held constant: what `pull_back` returns.

    Pullbacks add up, as an adjoint over several steps needs it: gradients and passes are summed,
    what engines say of their errors is the worst (largest) of them.

    Attributes:
        grad: shaped like phi.
        inner: <w, g_pre>.
        passes: learner passes spent.
        engines: why it was that engine, by the engine's name; several only in a sum.
        diagnostics: what the engine has to say (a finite-difference step).
        hessian: H w, where it was asked for; a sum has none.
        hessian_engine: what computed the Hessian products behind w; "" where there are none.
        again: phi -> <w, g_pre> and its gradient there, w the same, for a pass of the designer
            alone: the learner's part does not depend on phi where L_pre is linear in what the
            designer makes (`LinearForm`). None elsewhere, and in a sum.
    """

    grad: Params
    inner: Scalar
    passes: Passes
    engines: Mapping[str, str]
    diagnostics: Mapping[str, float]
    hessian: Params | None = None
    hessian_engine: str = ""
    again: Callable[[Params], tuple[Scalar, Params]] | None = None

    @staticmethod
    def zero(phi: Params) -> Pullback:
        """The sum of no pullbacks to phi."""
        return Pullback(trees.zeros_like(phi), torch.zeros(()), Passes(), {}, {})

    @property
    def engine(self) -> str:
        """The engine's name; names of several are separated by ", "."""
        return ", ".join(self.engines)

    @property
    def why(self) -> str:
        """Why it is that engine."""
        return "; ".join(self.engines.values())

    @property
    def approximations(self) -> tuple[str, ...]:
        """Why `grad` is not exact to rounding, in a phrase; empty where it is."""
        names = ", ".join(name for name in (self.engine, self.hessian_engine) if name)
        return differenced(names, self.diagnostics)

    def __add__(self, other: Pullback) -> Pullback:
        worst = dict(self.diagnostics)
        for name, said in other.diagnostics.items():
            worst[name] = max(worst.get(name, said), said, key=_nan_last)
        new = {name: why for name, why in other.engines.items() if name not in self.engines}
        return Pullback(
            trees.axpy(1.0, other.grad, self.grad),
            self.inner + other.inner,
            self.passes + other.passes,
            {**self.engines, **new},
            worst,
        )

    def estimate(
        self,
        value: Scalar,
        scale: float,
        notes: Mapping[str, float | int | bool | str],
        *,
        spent: Passes,
        objective: Scalar | None = None,
        further: Mapping[str, float | int | bool | str] | None = None,
        approximations: tuple[str, ...] = (),
        repeats: bool = False,
    ) -> ValueEstimate:
        """The estimate whose gradient this is.

        Args:
            value: the predicted decrease of L_down.
            scale: the unit of the objective.
            notes: the estimator's own diagnostics; passes, engine and `further` follow them.
            spent: learner passes beside those of the pullback.
            objective: what `grad` differentiates, where that is not the value.
            further: diagnostics of the simulated step.
            approximations: the estimator's own; the engine's follow them.
            repeats: whether the objective is <w, g_pre> with the same w at every phi, so that the
                estimate may be repeated there (`ValueEstimate.again`).
        """
        products = {"hessian_engine": self.hessian_engine} if self.hessian_engine else {}
        estimate = ValueEstimate(
            value,
            value if objective is None else objective,
            self.grad,
            scale,
            {
                **notes,
                **self.passes.as_diagnostics(spent),
                **self.diagnostics,
                **(further or {}),
                "engine": self.engine,
                **products,
                "engine_why": self.why,
            },
            (*approximations, *self.approximations),
        )
        if not repeats or (again := self.again) is None:
            return estimate

        def repeated(phi: Params) -> ValueEstimate:
            inner, grad = again(phi)
            return replace(estimate, objective=inner, grad=grad, again=repeated)

        return replace(estimate, again=repeated)

    def __repr__(self) -> str:
        return (
            f"Pullback(grad={trees.described(self.grad)}, inner={float(self.inner):.6g}, "
            f"engine={self.engine!r}, {self.passes})"
        )


@entry
@typed
def pull_back(
    problem: ValueProblem,
    theta: Params,
    construction: Construction,
    w: Params,
    engine: str | Engine = "auto",
    *,
    hessian: bool = False,
    joint: JointGradient | None = None,
) -> Pullback:
    """grad_phi <w, grad_theta L_pre(theta; c_phi)>: the pullback of w to the designer.

    Args:
        problem: gives L_pre.
        theta: the estimator's own point, shaped like w.
        construction: c_phi(B), with its graph to phi.
        w: the direction in learner space, held constant.
        engine: `auto`, a name, or an engine.
        hessian: whether H w is wanted too, from the same pass.
        joint: g_pre with its graph, from `kept_gradient` at this point; it serves once.

    Returns:
        The gradient, shaped like phi, with the engine that made it and the reason for it.

    Raises:
        UserError: the engine is unknown or does not apply; or the task follows phi and no entry
            of it has a graph.
        NotConvergedError: finite differences of two step sizes disagree, or a step rounds away.
    """
    if not construction.designed:
        require_no_hidden_way(problem, construction)
    product = mixed_product(problem, theta, construction, w, engine, hessian=hessian, joint=joint)
    return Pullback(
        problem.processes.summed(construction.pull(product.task)),
        product.inner,
        product.passes,
        {product.engine: product.why},
        product.diagnostics,
        product.hessian,
        again=_again(problem, construction, product.task),
    )


def _again(
    problem: ValueProblem, construction: Construction, worth: Mapping[str, Tensor]
) -> Callable[[Params], tuple[Scalar, Params]] | None:
    """See `Pullback.again`.

    Args:
        problem: says how L_pre is linear.
        construction: the task.
        worth: the derivatives of <w, g_pre> in what the designer made, the same at every phi.
    """
    linear = problem.linear
    if linear is None or construction.batch is None or construction.designed != (linear.target,):
        return None
    batch, worth = construction.batch, dict(worth)
    others = {n: x for n, x in construction.task.items() if n != linear.target}
    versions = {n: version_of(x) for n, x in others.items()}

    def again(phi: Params) -> tuple[Scalar, Params]:
        other = construct_task(problem, phi, batch)
        moved = [n for n, x in others.items() if not _the_same(other.task.get(n), x)]
        written = [n for n, x in others.items() if version_of(x) != versions[n]]
        differs = bool(moved) or other.task.keys() != construction.task.keys()
        # all processes stop, or none
        found = problem.processes.any(2 if written else 1 if differs else None)
        if found == 2:
            raise UserError(
                f"the task's {', '.join(map(repr, written)) or 'entries'} has been written over "
                "since the estimate (memory that is used again), and what it was is not known: "
                "let construct return its clone(), or ask for a new estimate"
            )
        if found:
            raise UserError(
                f"the task's {', '.join(map(repr, moved)) or 'entries'} changed with phi, "
                "without a graph to it (places of the best, a mask), and what a unit of "
                f"{linear.target!r} is worth with them: ask for a new estimate"
            )
        inner = trees.dot({linear.target: other.task[linear.target]}, worth)
        return problem.processes.total(inner), problem.processes.summed(other.pull(worth))

    return again


def _the_same(x: Tensor | None, before: Tensor) -> bool:
    """Whether an entry of a task is what it was; of the same memory nothing is read."""
    if x is None or x.shape != before.shape or x.dtype != before.dtype:
        return False
    if x.data_ptr() == before.data_ptr() and x.stride() == before.stride():
        return True
    same = x == before
    if x.is_floating_point():
        same |= x.isnan() & before.isnan()
    return bool(same.all())


def differenced(
    engines: str, diagnostics: Mapping[str, float | int | bool | str]
) -> tuple[str, ...]:
    """Why a gradient is not exact, where finite differences made it: for `approximations`.

    Args:
        engines: names of the engines that made it, separated by ", ", as diagnostics have them.
        diagnostics: with `fd_disagreement`, where the engine has estimated it.

    Returns:
        One phrase, or none where `finite_difference` is not among the engines.
    """
    if "finite_difference" not in engines.split(", "):
        return ()
    if "fd_disagreement" not in diagnostics:
        return (DIFFERENCES,)
    return (
        f"{DIFFERENCES}, whose two step sizes disagree by {diagnostics['fd_disagreement']:.1e}",
    )


def _nan_last(number: float) -> tuple[bool, float]:
    """A key under which the largest is a NaN, if there is one."""
    return math.isnan(number), number
