"""What a value estimator is asked: a `ValueProblem`; and what it answers: a `ValueEstimate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed

Task: TypeAlias = dict[str, Tensor]
"""A constructed self-supervised task c_phi(B_u): inputs, targets and side information by name."""


@dataclass(frozen=True)
class LinearForm:
    """States that the self-supervised loss is linear in one entry of the task.

    L_pre(theta; c) = <c[target], coefficients(theta, c)>, where `coefficients` does not read
    c[target]. For soft targets q over candidates, the coefficients are -log p_theta of the
    candidates times each position's weight. It is what the `linear` engine lives on: the mixed
    derivative in q is the tangent of the coefficients, and no backward pass through the learner
    is needed.

    Attributes:
        target: the task's entry that carries phi; the only one that may depend on it.
        coefficients: (theta, task) -> a tensor of the target's shape.
    """

    target: str
    coefficients: Callable[[Params, Task], Tensor]


@dataclass(frozen=True)
class CompositeForm:
    """States that the self-supervised loss is a convex function of the learner's outputs.

    L_pre(theta; c) = loss(outputs(theta, c), c), `loss` convex in the outputs: its Gauss-Newton
    matrix J^T (d2 loss / d outputs2) J, J = d outputs / d theta, is positive semi-definite
    (Schraudolph, 2002). For soft targets the outputs are the logits.

    Attributes:
        outputs: (theta, task) -> one tensor, differentiable in theta.
        loss: (outputs, task) -> L_pre.
    """

    outputs: Callable[[Params, Task], Tensor]
    loss: Callable[[Tensor, Task], Scalar]


@dataclass(frozen=True)
class ValueProblem:
    """One question: how should phi change so that the learner's next update lowers L_down?

    The functions are pure: the same arguments give the same numbers, and nothing is changed.

    Attributes:
        construct: (phi, batch) -> task, differentiable in phi. What it takes from the learner
            (candidates, log-probabilities, a teacher) is part of the batch: computed once at
            theta_t and held constant.
        pretrain_loss: (theta, task) -> L_pre, twice differentiable in (theta, task).
        feedback_loss: theta -> L_down on the labelled feedback. Labels exist only in here.
        batches: unlabeled batches B_0, B_1, ...; one is enough unless the estimator looks ahead.
        rule: the learner's optimizer step U, simulated.
        state: the learner's optimizer state at theta_t; empty before the first step.
        linear: how the loss is linear in the task, if it is.
        composite: how the loss is convex in the learner's outputs, if it is: for Gauss-Newton.
        parts: (theta, task) -> the terms of the loss, whose sum is L_pre, examples along the first
            dimension (and tokens along the second): for the value of each.
        no_second_order: why the learner's kernels have neither a forward mode nor a double
            backward (a flash attention of its own), or None: only `finite_difference` applies then.
        compute_dtype: what L_pre is computed in where that is coarser than theta's own dtype
            (autocast); finite differences take their step from it.
        seed: fixes whatever an estimator draws (the `random` control's direction).
        domains: the same question domain by domain, each with its own feedback and unlabeled
            batches, for `DomainMatched`; empty where it is not asked so.
        silent: whether L_down is known to be constant, so that there is nothing to estimate
            (rewards that do not differ).
        notes: what there is to say about the feedback, for the log.
        split: how the learner is cut at the lower edge of S, or why not, for the log.
    """

    construct: Callable[[Params, Any], Task]
    pretrain_loss: Callable[[Params, Task], Scalar]
    feedback_loss: Callable[[Params], Scalar]
    batches: tuple[Any, ...]
    rule: UpdateRule
    state: OptimizerState = field(default_factory=dict)
    linear: LinearForm | None = None
    composite: CompositeForm | None = None
    parts: Callable[[Params, Task], Tensor] | None = None
    no_second_order: str | None = None
    compute_dtype: torch.dtype | None = None
    seed: int = 0
    domains: Mapping[str, ValueProblem] = field(default_factory=dict)
    silent: bool = False
    notes: Mapping[str, float] = field(default_factory=dict)
    split: str = ""

    def __post_init__(self) -> None:
        if not self.batches:
            raise UserError("a ValueProblem needs at least one unlabeled batch; `batches` is empty")


@dataclass(frozen=True)
class ValueEstimate:
    """What an estimator answers.

    Attributes:
        value: the predicted decrease of L_down, in units of that loss.
        objective: the scalar that `grad` differentiates; the value itself, but for `cosine`,
            `random` and `zero`.
        grad: +d objective / d phi (an ascent direction), shaped like phi.
        scale: the unit s of the objective: a designer's optimizer minimises -objective / s, so
            that neither the learning-rate schedule nor the look-ahead rescales its step.
        diagnostics: norms, the cosine, solver residuals, learner passes, the engine and why.
        approximations: why `grad` is not the exact slope of `objective` (an adjoint cut short, a
            curvature replaced), one phrase each; empty where it is exact to rounding.
    """

    value: Scalar
    objective: Scalar
    grad: Params
    scale: float
    diagnostics: Mapping[str, float | int | bool | str]
    approximations: tuple[str, ...] = ()


@dataclass(frozen=True)
class Construction:
    """A task c_phi(B), detached for the learner's transforms, and the way back from it to phi.

    Attributes:
        task: every entry detached.
        designed: names of the entries that depend on phi.
        live: those entries with their graph back to `phi`.
        phi: the autograd leaves they were made from.
    """

    task: Task
    designed: tuple[str, ...]
    live: Mapping[str, Tensor]
    phi: Params

    def pull(self, cotangents: Mapping[str, Tensor]) -> Params:
        """Plain vector-Jacobian product through the designer alone: grad_phi <cotangents, c_phi>.

        The graph is kept, so that several directions can be pulled back through one task.
        """
        if not self.designed:
            return trees.zeros_like(self.phi)
        grads = torch.autograd.grad(
            [self.live[name] for name in self.designed],
            list(self.phi.values()),
            [cotangents[name] for name in self.designed],
            allow_unused=True,
            retain_graph=True,
        )
        return {
            name: torch.zeros_like(x) if g is None else g
            for (name, x), g in zip(self.phi.items(), grads, strict=True)
        }


@typed
def construct_task(problem: ValueProblem, phi: Params, batch: Any) -> Construction:
    """Construct c_phi(batch), remembering how each entry depends on phi.

    Args:
        problem: gives `construct`.
        phi: the designer's parameters.
        batch: one unlabeled batch.

    Returns:
        The construction; `pull` takes cotangents on the task back to phi.
    """
    phi = trees.leaves(phi)
    with torch.enable_grad():
        task = problem.construct(phi, batch)
    designed = tuple(name for name, x in task.items() if x.requires_grad)
    live = {name: task[name] for name in designed}
    return Construction(trees.detach(task), designed, live, phi)


@typed
def pretrain_gradient(problem: ValueProblem, theta: Params, task: Task) -> Params:
    """g_pre = grad_theta L_pre(theta; task), the task held constant."""
    theta = trees.leaves(theta)
    with torch.enable_grad():
        loss = problem.pretrain_loss(theta, trees.detach(task))
        return trees.gradient(_scalar("pretrain_loss", loss), theta)


@typed
def step_gradient(problem: ValueProblem, theta: Params, task: Task) -> Params:
    """g_pre as the optimizer's step takes it: parameters that L_pre does not reach are absent.

    A backward pass leaves their `.grad` None, and `torch.optim` then leaves the parameters and
    their state as they are: no decay, no momentum.
    """
    theta = trees.leaves(theta)
    with torch.enable_grad():
        loss = problem.pretrain_loss(theta, trees.detach(task))
        return trees.reached_gradient(_scalar("pretrain_loss", loss), theta)


@typed
def feedback_gradient(problem: ValueProblem, theta: Params) -> tuple[Scalar, Params]:
    """L_down(theta) and g_down = grad L_down(theta), both detached."""
    theta = trees.leaves(theta)
    with torch.enable_grad():
        loss = _scalar("feedback_loss", problem.feedback_loss(theta))
        return loss.detach(), trees.gradient(loss, theta)


def _scalar(name: str, loss: Tensor) -> Tensor:
    if loss.ndim:
        raise UserError(
            f"{name} returned a tensor of shape {tuple(loss.shape)}; reduce it to a scalar, such "
            "as by .mean()"
        )
    return loss
