"""Algorithm 1, one micro-batch at a time: estimate, designer step, task, learner step.

The learner's forward happens once: its output gives what the task takes from the learner, and
carries the learner's own loss. Labels reach nothing but the designer's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from vfunc import trees
from vfunc.errors import NonFiniteError, NotConvergedError, UserError
from vfunc.estimators import Estimator
from vfunc.feedback import DomainMatched
from vfunc.learner import RandomState
from vfunc.problem import ValueEstimate, ValueProblem
from vfunc.simulate import Clip, from_optimizer
from vfunc.training.arms import Arm
from vfunc.training.state import ArmState
from vfunc.trees import Params
from vfunc.workload import Forward, Workload


@dataclass(frozen=True)
class StepOptions:
    """How an arm is trained.

    Attributes:
        accumulate: micro-batches an optimizer step.
        clip: full-model gradient-norm clipping; 0 is off.
        meta_period: r, micro-batches between designer updates.
        burn_in: micro-batches before the first; until then a designer's arm is the baseline.
        look_ahead: unlabeled batches that the estimator wants.
        penalties: lambda of each term of the designer's regulariser R(phi), by its name.
        train_mode: whether estimates repeat the learner's dropout masks.
        seed: of what estimators draw.
    """

    accumulate: int
    clip: float
    meta_period: int
    burn_in: int
    look_ahead: int
    penalties: Mapping[str, float]
    train_mode: bool
    seed: int


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch did: for the log, and for the learner's bookkeeping (`carried`)."""

    loss: float
    notes: Mapping[str, float]
    carried: Mapping[str, Tensor]
    estimate: ValueEstimate | None


def micro_batch(
    arm: Arm,
    state: ArmState,
    workload: Workload,
    estimator: Estimator | None,
    options: StepOptions,
) -> MicroBatch:
    """Take one micro-batch: update the designer if it is due, then add to the learner's gradient.

    Args:
        arm: which tasks.
        state: changed in place.
        workload: the modality.
        estimator: of the designer's value; None for arms without one.
        options: see `StepOptions`.

    Returns:
        What happened.

    Raises:
        NonFiniteError: a loss, value or gradient is not finite; nothing has been stepped.
    """
    at = state.counters
    where = f"arm {arm.name}, step {at.step}, micro-batch {at.micro_batch}"
    batch = workload.batch(at.micro_batch)
    drawn = RandomState.now(next(state.learner.parameters()).device)
    burning_in = arm.designed and at.micro_batch < options.burn_in
    due = (at.micro_batch - options.burn_in) % options.meta_period == 0 and not burning_in
    due = due and estimator is not None and state.designer_optimizer is not None
    forward = workload.forward(
        state.learner,
        batch,
        observe=arm.observes and not burning_in,
        estimated=state.functional if due and not options.train_mode else None,
    )
    estimate = None
    if estimator is not None and due:
        dropout = drawn if options.train_mode else None
        estimate = _update_designer(state, workload, estimator, options, forward, dropout, where)
    source = "baseline" if burning_in else arm.name
    task = workload.build_task(state.learner, source, forward, state.designer)
    loss = workload.loss(state.learner, forward, task)
    _require_finite("the learner's loss", loss, where)
    (loss / options.accumulate).backward()
    state.counters = state.counters.advanced(
        micro_batch=at.micro_batch + 1, units=at.units + workload.count(batch)
    )
    return MicroBatch(float(loss.detach()), task.notes, task.carried, estimate)


def optimizer_step(arm: Arm, state: ArmState, options: StepOptions) -> float:
    """Clip and step the learner; returns the gradient's norm before clipping.

    Raises:
        NonFiniteError: the gradient is not finite; the learner has not moved.
    """
    inside = set(state.functional.names)
    live = [(n, p) for n, p in state.learner.named_parameters() if p.grad is not None]
    outside = [p.grad for n, p in live if n not in inside]
    outside_norm = float(get_total_norm(outside)) if options.clip and outside else 0.0
    gradients = [p.grad for _, p in live]
    norm = get_total_norm(gradients)
    _require_finite("the learner's gradient", norm, f"arm {arm.name}, step {state.counters.step}")
    if options.clip:
        clip_grad_norm_([p for _, p in live], options.clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    state.counters = state.counters.advanced(
        step=state.counters.step + 1, outside_norm=outside_norm
    )
    return float(norm)


def value_problem(
    state: ArmState,
    workload: Workload,
    options: StepOptions,
    observed: tuple[object, ...],
    feedback: object,
    dropout: RandomState | None,
) -> ValueProblem:
    """The value problem of the learner's next step, read off the live optimizer."""
    assert state.designer is not None
    live = state.functional.live
    in_window = state.counters.micro_batch % options.accumulate
    rule, optimizer_state = from_optimizer(
        state.optimizer,
        live,
        clip=_simulated_clip(state, options),
        accumulated={n: p.grad.detach() for n, p in live.items() if p.grad is not None}
        if in_window
        else None,
        weight=1 / options.accumulate,
        closes_window=in_window == options.accumulate - 1,
    )
    return workload.problem(
        state.functional,
        state.designer,
        observed,
        feedback,
        rule,
        optimizer_state,
        dropout=dropout,
        # a new draw an update, the same in a resumed run
        seed=options.seed * 1_000_003 + state.counters.updates,
    )


def _simulated_clip(state: ArmState, options: StepOptions) -> Clip | None:
    """The live clipping. Outside S the norm is the last step's: this one's is not known yet."""
    if not options.clip:
        return None
    trainable = {name for name, p in state.learner.named_parameters() if p.requires_grad}
    whole = trainable == set(state.functional.names)
    return Clip(options.clip, None if whole else state.counters.outside_norm)


def _update_designer(
    state: ArmState,
    workload: Workload,
    estimator: Estimator,
    options: StepOptions,
    forward: Forward,
    dropout: RandomState | None,
    where: str,
) -> ValueEstimate:
    """One step of the designer's optimizer; none where the feedback says nothing."""
    designer, optimizer = state.designer, state.designer_optimizer
    assert designer is not None and optimizer is not None
    at = state.counters
    estimated = state.functional if dropout is None else None
    ahead = tuple(
        workload.look_ahead(state.learner, workload.batch(at.micro_batch + k), estimated=estimated)
        for k in range(1, options.look_ahead)
    )
    observed = (forward.observed, *ahead)
    feedback = workload.feedback(at.updates)
    problem = value_problem(state, workload, options, observed, feedback, dropout)
    phi = trees.detach(dict(designer.named_parameters()))
    if problem.silent:
        state.counters = at.advanced(updates=at.updates + 1)
        return _nothing_to_estimate(problem, phi)
    try:
        asked = DomainMatched(estimator) if problem.domains else estimator
        estimate = asked(problem, state.functional.theta, phi)
    except NotConvergedError as error:
        raise NotConvergedError(f"{error} ({where})") from error
    if not isinstance(estimate, ValueEstimate):
        raise UserError(
            f"the estimator returned a {type(estimate).__name__}; it has to return a ValueEstimate"
        )
    trees.require_same_structure("the estimate's grad", estimate.grad, phi)
    _require_finite("the value", estimate.value, where)
    _require_finite("the designer's objective", estimate.objective, where)
    parameters = dict(designer.named_parameters())
    estimate.descend(parameters)
    if any(options.penalties.values()):
        penalty = _penalty_gradient(workload, state, phi, forward, options.penalties)
        for name, parameter in parameters.items():
            parameter.grad = parameter.grad + penalty[name]
    if not trees.is_finite({name: p.grad for name, p in parameters.items()}):
        optimizer.zero_grad(set_to_none=True)
        raise NonFiniteError(f"the designer's gradient is not finite ({where})")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    state.counters = at.advanced(updates=at.updates + 1)
    split = {"split": problem.split} if problem.split else {}
    return replace(estimate, diagnostics={**estimate.diagnostics, **split, **problem.notes})


def _nothing_to_estimate(problem: ValueProblem, phi: Params) -> ValueEstimate:
    """The estimate of any task's value for an L_down that is constant: zero."""
    zero = torch.zeros(())
    notes = {"silent": True, **problem.notes}
    return ValueEstimate(zero, zero, trees.zeros_like(phi), 1.0, notes)


def _penalty_gradient(
    workload: Workload,
    state: ArmState,
    phi: Params,
    forward: Forward,
    penalties: Mapping[str, float],
) -> Params:
    """grad_phi of sum_i lambda_i R_i."""
    assert state.designer is not None
    phi = trees.leaves(phi)
    terms = workload.regularisers(state.designer, phi, forward.observed)
    total = sum((penalties[name] * terms[name] for name in penalties), torch.zeros(()))
    return trees.gradient(total, phi)


def _require_finite(what: str, x: Tensor, where: str) -> None:
    number = float(x.detach())
    if not math.isfinite(number):
        raise NonFiniteError(f"{what} is {number} ({where})")
