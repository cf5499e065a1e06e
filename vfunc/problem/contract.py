"""The contract of a value estimator: what it is asked, a `ValueProblem`, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import NonFiniteError, UserError
from vfunc.problem.loss_forms import CompositeForm, LinearForm, Task
from vfunc.processes import ALONE, Processes
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params, Scalar


@dataclass(frozen=True, repr=False)
class KnownFeedback:
    """L_down and g_down at one theta, computed before the problem was put together.

    So that the graph of L_down is gone when the learner's own forward makes its graph.

    Attributes:
        feedback_loss: theta -> L_down; this very function.
        theta: where; these very tensors.
        versions: how often each of them had been written to by then.
        loss: L_down.
        gradient: g_down.
    """

    feedback_loss: Callable[[Params], Scalar]
    theta: Params
    versions: Mapping[str, int]
    loss: Scalar
    gradient: Params


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
        known: L_down and g_down at the learner's theta, where they have been computed before.
        means: means of the stream's own gradients, each shaped like theta, for `FirstOrder`'s
            deflated values: in the training loop running ones, of the steps that the learner has
            taken; constants. With several processes of the whole, the same in each.
        processes: the processes that this one trains with. With several, `batches` are its own
            examples, and `pretrain_loss`, its forms and `feedback_loss` give its part of sums over
            all processes' examples; estimates are then of the whole, the same in every process.
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
    known: KnownFeedback | None = None
    means: tuple[Params, ...] = ()
    processes: Processes = ALONE

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
        _require_means(self.means)

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
        """L_pre(theta; task), with `held` for theta behind its stop-gradients (see `held`).

        The loss is given dicts of its own: one that puts another tensor under a name changes
        nothing of the leaves that are differentiated.
        """
        return self.pretrain_loss(dict(theta), dict(task), *self.held(theta, held))

    def with_means(self, means: tuple[Params, ...]) -> ValueProblem:
        """The same question, domain by domain too, with these means of the stream's gradients."""
        domains = {name: one.with_means(means) for name, one in self.domains.items()}
        return replace(self, domains=domains, means=means)

    def for_one_process(self) -> ValueProblem:
        """The same question of this process's part alone."""
        if self.processes.alone:
            return self
        domains = {name: one.for_one_process() for name, one in self.domains.items()}
        return replace(self, domains=domains, processes=ALONE)

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
            *([f"{len(self.means)} mean gradients"] if self.means else []),
            *([] if self.processes.alone else [f"{self.processes}"]),
        ]
        return f"ValueProblem({'; '.join(said)})"


@dataclass(frozen=True, repr=False)
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
        again: phi -> the estimate with `objective` and `grad` as they are there, for a pass of the
            designer and none of the learner; value and diagnostics stay those of this phi. None
            where that takes the learner. Whoever changes `grad` of an estimate changes this, too.
    """

    value: Scalar
    objective: Scalar
    grad: Params
    scale: float
    diagnostics: Mapping[str, float | int | bool | str]
    approximations: tuple[str, ...] = ()
    again: Callable[[Params], ValueEstimate] | None = None

    def descend(self, parameters: Mapping[str, Tensor]) -> None:
        """Add -grad / scale to the `.grad` of a designer's parameters, as a backward pass does.

        What a minimising optimizer then steps along is the descent of -objective / scale. As with
        `torch.Tensor.backward`, gradients add up until they are zeroed: a regulariser's
        `(weight * R).backward()` before or after joins in, and so do several estimates.

        Args:
            parameters: the live parameters by name, all that the estimate is for: those of
                `dict(designer.named_parameters())`, or the `live` of a `FunctionalLearner`.

        Raises:
            UserError: other names or shapes than the gradient's, or a parameter that is no leaf,
                whose `.grad` no optimizer reads; nothing has been changed.
            NonFiniteError: the gradient is not finite; nothing has been changed.
        """
        if not isinstance(parameters, Mapping):
            raise UserError(
                f"descend takes the designer's parameters by name, not a "
                f"{type(parameters).__name__}: dict(designer.named_parameters())"
            )
        trees.require_same_structure("the estimate's grad", self.grad, parameters)
        inner = [name for name, x in parameters.items() if not x.is_leaf]
        if inner:
            raise UserError(
                f"descend fills the .grad of leaves, and {inner[0]!r} is computed from something "
                "else; give the parameters that the optimizer holds"
            )
        lost = [name for name, g in self.grad.items() if not bool(torch.isfinite(g).all())]
        if lost:
            raise NonFiniteError(
                f"the estimate's gradient in {lost[0]!r} is not finite (its objective is "
                f"{float(self.objective):.3g}), and a step along it would end the designer: look "
                "at the losses, and at the step size"
            )
        for name, x in parameters.items():
            step = (self.grad[name] * (-1 / self.scale)).to(x)
            x.grad = step if x.grad is None else x.grad + step

    def __repr__(self) -> str:
        engine = self.diagnostics.get("engine")
        approximate = f", approximate: {'; '.join(self.approximations)}"
        return (
            f"ValueEstimate(value={float(self.value):.6g}, objective={float(self.objective):.6g}, "
            f"grad={trees.described(self.grad)}, scale={self.scale:.6g}"
            f"{f', engine={engine!r}' if engine else ''}, {len(self.diagnostics)} diagnostics"
            f"{approximate if self.approximations else ''})"
        )


def _require_means(means: object) -> None:
    """Check mean gradients: a tuple of dicts of finite, detached tensors."""
    if not isinstance(means, tuple):
        raise UserError(
            f"means must be a tuple of gradients, not a {type(means).__name__}; write (mean,)"
        )
    for i, mean in enumerate(means):
        if not isinstance(mean, dict):
            kind = type(mean).__name__
            raise UserError(f"means[{i}] must be a dict of tensors by name, not a {kind}")
        for name, x in mean.items():
            where = f"means[{i}][{name!r}]"
            if not isinstance(x, Tensor) or not x.dtype.is_floating_point:
                kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
                raise UserError(f"{where} must be a tensor of real numbers, not {kind}")
            if x.requires_grad:
                raise UserError(f"{where} has a graph, and means are constants: give its detach()")
            if not bool(torch.isfinite(x).all()):
                raise UserError(f"{where} is not finite")
