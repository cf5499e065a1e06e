"""What a value estimator is asked: a `ValueProblem`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem.loss_forms import CompositeForm, LinearForm, Task
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params, Scalar


@dataclass(frozen=True, repr=False)
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
        stop_gradient: whether `pretrain_loss` takes a third argument, `held`: theta held constant,
            for what the loss puts behind a stop-gradient (a teacher, a target of its own making).
            The forms (`linear`, `composite`, `parts`) then take it last, too. A plain gradient in
            theta does not see it, and all that phi puts into the loss through it counts: with
            `.detach()` or `torch.no_grad()` in its place that would be lost.
        notes: what there is to say about the feedback, for the log.
        split: how the learner is cut at the lower edge of S, or why not, for the log.
    """

    construct: Callable[[Params, Any], Task]
    pretrain_loss: Callable[..., Scalar]
    feedback_loss: Callable[[Params], Scalar]
    batches: tuple[Any, ...]
    rule: UpdateRule
    state: OptimizerState = field(default_factory=dict)
    linear: LinearForm | None = None
    composite: CompositeForm | None = None
    parts: Callable[..., Tensor] | None = None
    no_second_order: str | None = None
    compute_dtype: torch.dtype | None = None
    seed: int = 0
    domains: Mapping[str, ValueProblem] = field(default_factory=dict)
    silent: bool = False
    stop_gradient: bool = False
    notes: Mapping[str, float] = field(default_factory=dict)
    split: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.batches, tuple):
            kind = type(self.batches).__name__
            raise UserError(
                f"batches must be a tuple of unlabeled batches, not a {kind}; write (batch,), or "
                "tuple(batches)"
            )
        if not self.batches:
            raise UserError("a ValueProblem needs at least one unlabeled batch; `batches` is empty")
        for name in ("construct", "pretrain_loss", "feedback_loss"):
            if not callable(function := getattr(self, name)):
                raise UserError(f"{name} must be a function, not a {type(function).__name__}")
        if not isinstance(self.rule, UpdateRule):
            raise UserError(
                f"rule must be an UpdateRule, not a {type(self.rule).__name__}; take "
                "vfunc.from_optimizer(optimizer, parameters), or vfunc.UpdateRule(vfunc.SGD(lr))"
            )

    def held(self, theta: Params, held: Params | None = None) -> tuple[Params, ...]:
        """What the loss and its forms take after the task: theta held constant, or nothing.

        Args:
            theta: the point of the loss.
            held: what stands for theta behind stop-gradients; None is theta itself.
        """
        if not self.stop_gradient:
            return ()
        return (trees.detach(theta) if held is None else held,)

    def pretrain(self, theta: Params, task: Task, held: Params | None = None) -> Any:
        """L_pre(theta; task), with `held` for theta behind its stop-gradients (see `held`)."""
        return self.pretrain_loss(theta, task, *self.held(theta, held))

    def __repr__(self) -> str:
        count = len(self.batches)
        forms = [name for name in ("linear", "composite", "parts") if getattr(self, name)]
        said = [
            f"{count} batch{'es' if count > 1 else ''}",
            f"{self.rule}",
            f"optimizer state of {len(self.state)} parameters",
            *([f"declares {', '.join(forms)}"] if forms else []),
            *([f"domains {', '.join(self.domains)}"] if self.domains else []),
            *(["silent"] if self.silent else []),
        ]
        return f"ValueProblem({'; '.join(said)})"
