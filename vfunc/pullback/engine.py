"""What a pullback engine is: the mixed derivative of the learner's gradient, one direction at once.

An engine differentiates the inner product <w, grad_theta L_pre(theta; c)>, w held constant, in the
entries of the task c that the designer made, and on request in theta too (the Hessian-vector
product H w that an adjoint needs). It never sees phi: the plain vector-Jacobian product through
the designer is one piece of code for all engines (`Construction.pull`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.forward_pass import coarsest_round_off
from vfunc.problem import Task, ValueProblem
from vfunc.problem.arguments import scalar
from vfunc.trees import Params, Scalar

EngineName: TypeAlias = Literal["auto", "linear", "forward", "reverse", "finite_difference"]
"""How an `engine` option spells the engines that come with the package, and the choice of one."""


@dataclass(frozen=True)
class Passes:
    """Passes through the learner that were spent, by kind.

    A tangent pass is a forward-mode pass and includes its primal forward. A double backward
    counts as a forward, a backward, and the backward through both, hence two backwards.
    """

    forwards: int = 0
    backwards: int = 0
    tangents: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.tangents + other.tangents,
        )

    def as_diagnostics(self, more: Passes | None = None) -> dict[str, int]:
        """The counts, with those of `more`, as entries of an estimate's diagnostics."""
        spent = self if more is None else self + more
        return {
            "forwards": spent.forwards,
            "backwards": spent.backwards,
            "tangents": spent.tangents,
        }


GRADIENT = Passes(forwards=1, backwards=1)
"""One plain gradient."""


@dataclass(frozen=True, repr=False)
class JointGradient:
    """g_pre with its graph, from which one double backward can start; it lives until then.

    Attributes:
        theta: the leaves that g_pre was taken in.
        made: leaves for the entries of the task that the designer made.
        held: leaves for theta behind stop-gradients, where the problem has any.
        loss: L_pre.
        g_pre: its gradient, zero where L_pre does not reach.
        reached: names of the parameters that it does reach.
    """

    theta: Params
    made: Params
    held: Params
    loss: Tensor
    g_pre: Params
    reached: tuple[str, ...]

    def step_gradient(self) -> Params:
        """g_pre as an optimizer's step takes it, see `vfunc.problem.step_gradient`."""
        return {name: self.g_pre[name].detach() for name in self.reached}


@dataclass(frozen=True, repr=False)
class ProductRequest:
    """What an engine is asked: the derivative of <w, grad_theta L_pre(theta; c)>, w held constant.

    Attributes:
        problem: gives L_pre, and says how it is linear.
        theta: the point, shaped like w.
        task: c at that point, detached.
        designed: names of the entries of the task that the designer made.
        w: the direction in learner space.
        hessian: whether H w is wanted too.
        repeated: whether this is one of many products of a solver, which goes by its own
            residual: finite differences then do without their error estimate.
        joint: g_pre with its graph, where it has been computed already (see `kept_gradient`); an
            engine that has no use for it does without.
    """

    problem: ValueProblem
    theta: Params
    task: Task
    designed: tuple[str, ...]
    w: Params
    hessian: bool = False
    repeated: bool = False
    joint: JointGradient | None = None

    @property
    def made(self) -> Task:
        """The entries of the task that the designer made."""
        return {name: self.task[name] for name in self.designed}

    def loss(self, theta: Params, made: Task, held: Params | None = None) -> Scalar:
        """L_pre at theta, with these entries for those that the designer made.

        Args:
            theta: where; an engine moves it along w.
            made: the designer's entries.
            held: what stands behind the loss's stop-gradients; None is the request's own theta,
                which no engine moves.

        Raises:
            UserError: it is no scalar.
        """
        held = self.theta if held is None else held
        loss = self.problem.pretrain(theta, self.task | made, held)
        return scalar("pretrain_loss", loss)

    def coefficients(self, theta: Params) -> Tensor:
        """What the loss is linear in the target by (see `LinearForm`).

        Raises:
            UserError: they are not of the target's shape.
        """
        linear = self.problem.linear
        assert linear is not None  # an engine's refusal comes first
        held = self.problem.held(self.theta)
        return self._like_target("coefficients", linear.coefficients(theta, self.task, *held))

    def tangent(self) -> Tensor:
        """The derivative of the coefficients along w, by one forward-mode pass.

        Raises:
            UserError: the problem's own is not of the target's shape.
        """
        linear = self.problem.linear
        assert linear is not None
        if linear.tangent is None:
            return trees.tangent_along(self.coefficients, self.theta, self.w)[1].detach()
        held = self.problem.held(self.theta)
        found = linear.tangent(self.theta, self.w, self.task, *held)
        return self._like_target("tangent", found).detach()

    def _like_target(self, what: str, found: Tensor) -> Tensor:
        assert self.problem.linear is not None
        name = self.problem.linear.target
        if found.shape != self.task[name].shape:
            raise UserError(
                f"linear.{what} returned a tensor of shape {tuple(found.shape)}; the task's "
                f"{name!r} is of shape {tuple(self.task[name].shape)}"
            )
        return found

    @property
    def round_off(self) -> float:
        """The coarsest round-off of the dtypes that the loss goes through."""
        return coarsest_round_off(self.theta, self.problem.compute_dtype)

    def __repr__(self) -> str:
        wanted = "its task and theta" if self.hessian else "its task"
        return (
            f"ProductRequest(in {wanted}, theta={trees.described(self.theta)}, "
            f"designed={self.designed})"
        )


@dataclass(frozen=True, repr=False)
class MixedProduct:
    """What an engine returns.

    Attributes:
        inner: <w, g_pre>.
        task: grad_c <w, g_pre> for each designed entry of the task.
        hessian: H w = grad_theta <w, g_pre>, where it was asked for.
        passes: learner passes spent.
        diagnostics: what the engine has to say (a finite-difference step).
        engine: the engine's name; `mixed_product` fills it in.
        why: why it is that one; `mixed_product` fills it in.
    """

    inner: Scalar
    task: Mapping[str, Tensor]
    hessian: Params | None
    passes: Passes
    diagnostics: Mapping[str, float] = field(default_factory=dict)
    engine: str = ""
    why: str = ""

    def __repr__(self) -> str:
        hessian = "" if self.hessian is None else f", hessian={trees.described(self.hessian)}"
        return (
            f"MixedProduct(inner={float(self.inner):.6g}, task={trees.described(self.task)}"
            f"{hessian}, engine={self.engine!r}, {self.passes})"
        )


@runtime_checkable
class Engine(Protocol):
    """A way to compute a `MixedProduct`."""

    @property
    def name(self) -> str:
        """The engine's name, as the `engine` option spells it."""
        ...

    @property
    def differentiates_attention(self) -> bool:
        """Whether the learner's attention has to support forward mode or a double backward.

        Flash and memory-efficient kernels support neither.
        """
        ...

    def refusal(self, request: ProductRequest) -> str | None:
        """Why the engine does not apply to such a request, or None if it does.

        It goes by the problem's forms, `designed` and `hessian`, and computes nothing.
        """
        ...

    def __call__(self, request: ProductRequest) -> MixedProduct:
        """The mixed product."""
        ...


def joined(task: Params, theta: Params, held: Params) -> Params:
    """One dict of all, so that one backward pass serves all; the names cannot collide.

    Args:
        task: entries of the task.
        theta: the learner's parameters.
        held: the same behind stop-gradients, if there are any.
    """
    groups = {"task": task, "theta": theta, "held": held}
    return {f"{kind} {n}": x for kind, group in groups.items() for n, x in group.items()}


def by_theta(products: Params, theta: Params) -> Params:
    """The total derivative in theta, from products by `joined` names."""
    return {
        n: products[f"theta {n}"] + products[f"held {n}"]
        if f"held {n}" in products
        else products[f"theta {n}"]
        for n in theta
    }
