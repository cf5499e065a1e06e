"""Algorithm 1, one micro-batch at a time: estimate, designer step, task, learner step.

The learner's forward happens once: its output gives what the task takes from the learner, and
carries the learner's own loss. Labels reach nothing but the designer's parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from vfunc import trees
from vfunc.errors import NonFiniteError, NotConvergedError, UserError
from vfunc.feedback import DomainMatched
from vfunc.learner import RandomState
from vfunc.problem import (
    KnownFeedback,
    ValueEstimate,
    ValueProblem,
    held_feedback,
    known_feedback,
)
from vfunc.problem.gains import Gains
from vfunc.sharding import clip_shards, norm_with_shards, replicated
from vfunc.simulate import Clip, from_optimizer
from vfunc.simulate.windows import Shares
from vfunc.training.arm_run import ArmRun
from vfunc.training.state import ArmState, HeldFeedback, HeldMean
from vfunc.trees import Params
from vfunc.workload import Downstream, Forward, HeldDownstream


@dataclass(frozen=True)
class MicroBatch:
    """What one micro-batch did: for the log, and for the learner's bookkeeping (`carried`).

    `notes` and `counts` are its task's, see `vfunc.workload.BuiltTask`.
    """

    loss: float
    notes: Mapping[str, float]
    carried: Mapping[str, Tensor]
    estimate: ValueEstimate | None
    counts: Mapping[str, float]


@dataclass(frozen=True)
class TaskLoss:
    """The learner's loss on its task for one micro-batch, before the backward pass.

    Attributes:
        loss: this process's part, with its graph.
        units: tokens (images) of all processes.
        done: what there is to tell.
    """

    loss: Tensor
    units: int
    done: MicroBatch


def micro_batch(run: ArmRun) -> MicroBatch:
    """Take one micro-batch: update the designer if it is due, then add to the learner's gradient.

    Args:
        run: the arm; its state is changed in place.

    Returns:
        What happened.

    Raises:
        NonFiniteError: a loss, value or gradient is not finite; nothing has been stepped, but for
            finite designer steps of the same update (`designer_steps`).
    """
    taken = task_loss(run)
    (taken.loss / run.options.accumulate).backward()
    count_micro_batch(run, taken)
    return taken.done


def count_micro_batch(run: ArmRun, taken: TaskLoss) -> None:
    """Have the counters say that a micro-batch has been taken."""
    at = run.state.counters
    run.state.counters = replace(at, micro_batch=at.micro_batch + 1, units=at.units + taken.units)


def task_loss(run: ArmRun) -> TaskLoss:
    """Update the designer if it is due, and have the learner's loss on the task that it makes.

    Args:
        run: the arm; its designer is changed in place. The learner, its gradient and the count of
            micro-batches are the caller's (`count_micro_batch`).

    Returns:
        The loss, and what happened.

    Raises:
        NonFiniteError: a loss, value or gradient is not finite; nothing has been stepped, but for
            finite designer steps of the same update (`designer_steps`).
    """
    arm, state, workload, options = run.arm, run.state, run.workload, run.options
    at = state.counters
    batch = workload.batch(at.micro_batch)
    burning_in = arm.designed and at.micro_batch < options.burn_in
    due = _estimate_is_due(run)
    dropout = None
    if due and options.train_mode:  # the masks of the forward that comes next
        dropout = RandomState.now(next(state.learner.parameters()).device)
    feedback = _feedback_now(run, dropout) if due else None
    g_down = _g_down_now(run) if arm.valued else None
    forward = workload.forward(
        state.learner,
        batch,
        observe=arm.observes and not burning_in,
        estimated=run.estimated if (due and dropout is None) or arm.valued else None,
    )
    estimate = None if feedback is None else _update_designer(run, forward, feedback)
    del feedback  # a gradient's memory
    source = "baseline" if burning_in else arm.name
    task = workload.build_task(
        state.learner,
        source,
        forward,
        state.designer,
        estimated=run.estimated,
        g_down=g_down,
    )
    loss = workload.loss(state.learner, forward, task)
    whole, units = workload.processes.totals(float(loss.detach()), forward.units)
    _require_finite("the learner's loss", whole, run)
    done = MicroBatch(whole, task.notes, task.carried, estimate, task.counts)
    return TaskLoss(loss, int(units), done)


def warm_up(run: ArmRun) -> Iterator[ValueEstimate]:
    """Updates of the designer with the learner held, before the first task that it makes.

    They take the micro-batches that come next, the first of each window, from where the learner
    will begin: it steps on these as it would have without.

    Args:
        run: the arm, before a window; its designer is changed in place, an update each.

    Yields:
        Each update's estimate.

    Raises:
        NonFiniteError: a value or gradient is not finite; that update has not been made, but for
            its steps that were finite (`designer_steps`).
    """
    state, workload, options = run.state, run.workload, run.options
    begin, every = state.counters.micro_batch, options.accumulate
    if (
        run.estimator is None
        or state.designer_optimizer is None
        or begin + every <= options.burn_in
    ):
        return
    while state.counters.updates < options.designer_warmup:
        at = begin + state.counters.updates * every
        state.counters = replace(state.counters, micro_batch=at)
        try:
            dropout = None
            if options.train_mode:
                dropout = RandomState.now(next(state.learner.parameters()).device)
            feedback = _feedback_now(run, dropout)
            forward = workload.forward(
                state.learner,
                workload.batch(at),
                observe=True,
                estimated=run.estimated if dropout is None else None,
            )
            estimate = _update_designer(run, forward, feedback)
        finally:
            state.counters = replace(state.counters, micro_batch=begin)
        _not_aged(state)
        yield estimate


def _not_aged(state: ArmState) -> None:
    """What is held is as good as new while the learner has not moved: it serves on."""
    made = state.counters.updates
    if state.held is not None:
        state.held = replace(state.held, updates=made)
    if state.held_mean is not None:
        state.held_mean = replace(state.held_mean, updates=made)


def optimizer_step(run: ArmRun) -> float:
    """Clip and step the learner; returns the gradient's norm before clipping.

    Raises:
        NonFiniteError: the gradient is not finite; the learner has not moved.
    """
    state, clip = run.state, run.options.clip
    _sum_gradients(run)
    norm, outside_norm = note_gradient(run)
    if clip and state.sharded is not None:
        clip_shards(state.learner.parameters(), clip, norm)
    elif clip:
        clip_grad_norm_([p for p in state.learner.parameters() if p.grad is not None], clip)
    state.optimizer.step()
    state.optimizer.zero_grad(set_to_none=True)
    count_step(run, outside_norm)
    return norm


def note_gradient(run: ArmRun) -> tuple[float, float]:
    """Take the gradient that the learner is about to step on into the running means.

    Args:
        run: the arm, whose `.grad` is of the whole window and all processes, before clipping.

    Returns:
        Its norm, and that outside S where that matters, else zero.

    Raises:
        NonFiniteError: the gradient is not finite.
    """
    state = run.state
    inside = set(state.functional.names)
    live = [(n, p.grad) for n, p in state.learner.named_parameters() if p.grad is not None]
    outside = [g for n, g in live if n not in inside]
    norm_of = get_total_norm if state.sharded is None else norm_with_shards
    outside_norm = float(norm_of(outside)) if run.options.clip and outside else 0.0
    norm = norm_of([g for _, g in live])
    if not math.isfinite(norm):
        raise NonFiniteError(f"the learner's gradient is {float(norm)} ({run.where})")
    if state.running is not None:
        state.running = state.running.after(state.functional.live)
    return float(norm), outside_norm


def count_step(run: ArmRun, outside_norm: float) -> None:
    """Have the counters say that the learner has stepped."""
    at = run.state.counters
    run.state.counters = replace(at, step=at.step + 1, outside_norm=outside_norm)


def _sum_gradients(run: ArmRun) -> None:
    """The learner's gradient, of all processes' micro-batches; what none reaches stays None."""
    processes = run.workload.processes
    if processes.alone:
        return
    trained = {n: p for n, p in run.state.learner.named_parameters() if p.requires_grad}
    own = replicated(trained)  # the gradients of shards are of all processes already
    held = {n: p.grad for n, p in own.items() if p.grad is not None}
    for name, summed in processes.summed(held, like=trees.detach(own)).items():
        own[name].grad = summed


@dataclass(frozen=True)
class FeedbackNow:
    """L_down at one update of the designer.

    Attributes:
        downstream: what it is measured by.
        dropout: the random state whose dropout masks estimates repeat, or None.
        theta: the learner's parameters in S.
        known: it and its gradient at theta, where the estimator takes that first: before the
            learner's forward, so that their graphs are not there together.
    """

    downstream: Downstream
    dropout: RandomState | None
    theta: Params
    known: KnownFeedback | None


def feedback_at(
    run: ArmRun, index: int, dropout: RandomState | None = None, bank: int | None = None
) -> FeedbackNow:
    """The feedback of one labelled batch or bank, of which nothing has been computed yet.

    Args:
        run: an arm with a designer.
        index: position of the labelled batch, or of the bank.
        dropout: the random state whose dropout masks estimates repeat, or None.
        bank: how many labelled examples a bank holds; None is a batch.
    """
    downstream = run.workload.downstream(
        run.estimated, index, dropout=dropout, seed=_seed(run), bank=bank
    )
    return FeedbackNow(downstream, dropout, run.state.functional.theta, None)


def _feedback_now(run: ArmRun, dropout: RandomState | None) -> FeedbackNow:
    """The feedback of this update, with g_down where the estimator begins with it.

    And the stream's mean gradient, where one is held.
    """
    if run.options.mean_bank is not None and not run.arm.random:
        hold_mean(run, run.options.mean_bank)
    if run.options.feedback_every > 1:
        return _held_feedback(run, dropout)
    feedback = feedback_at(run, run.state.counters.updates, dropout, run.options.feedback_bank)
    downstream = feedback.downstream
    first = getattr(run.estimator, "takes_g_down", False)
    if not first or not downstream.whole or downstream.constant:
        return feedback
    known = known_feedback(downstream.loss, feedback.theta, run.workload.processes)
    return replace(feedback, known=known)


def _held_feedback(run: ArmRun, dropout: RandomState | None) -> FeedbackNow:
    """The feedback that is held, computed anew if it has served its updates."""
    state, every = run.state, run.options.feedback_every
    at, held = state.counters.updates, state.held
    if held is None or at - held.updates >= every:
        state.held = None  # two copies of g_down are one too many
        feedback = feedback_at(run, at // every, dropout, run.options.feedback_bank)
        known = known_feedback(feedback.downstream.loss, feedback.theta, run.workload.processes)
        state.held = held = HeldFeedback(at, known.loss, known.gradient)
        del feedback, known
    downstream = HeldDownstream({"feedback_age": float(at - held.updates)})
    theta = state.functional.theta
    known = held_feedback(downstream.loss, theta, held.loss, held.gradient)
    return FeedbackNow(downstream, dropout, theta, known)


def hold_mean(run: ArmRun, count: int) -> None:
    """Compute the stream's mean gradient anew if it has served its updates.

    Args:
        run: the arm; its state is changed in place.
        count: micro-batches that it is of, from the present one on.
    """
    state, at = run.state, run.state.counters
    if state.held_mean is not None and at.updates - state.held_mean.updates < (
        run.options.feedback_every
    ):
        return
    state.held_mean = None
    workload = run.workload
    loss = workload.stream_loss(run.estimated, range(at.micro_batch, at.micro_batch + count))
    known = known_feedback(loss, state.functional.theta, workload.processes)
    state.held_mean = HeldMean(at.updates, known.gradient)


def _g_down_now(run: ArmRun) -> Params | None:
    """g_down for an arm that goes by values, at every micro-batch; None where L_down says nothing.

    Of another labelled batch, or bank, each time; or held as long as a designer's is.
    """
    state, options, at = run.state, run.options, run.state.counters.micro_batch
    index = at
    if options.feedback_every > 1:
        updates = at // options.meta_period  # that a designer would have had
        held, index = state.held, updates // options.feedback_every
        if held is not None and held.updates // options.feedback_every == index:
            return held.gradient
        state.held = None
    feedback = feedback_at(run, index, bank=options.feedback_bank)
    loss, constant = feedback.downstream.loss, feedback.downstream.constant
    if constant:
        return None
    known = known_feedback(loss, feedback.theta, run.workload.processes)
    if options.feedback_every > 1:
        state.held = HeldFeedback(at // options.meta_period, known.loss, known.gradient)
    return known.gradient


def _seed(run: ArmRun) -> int:
    """A new draw an update, the same in a resumed run."""
    return run.options.seed * 1_000_003 + run.state.counters.updates


def value_problem(
    run: ArmRun,
    observed: tuple[object, ...],
    feedback: int | FeedbackNow,
    gains: Gains | None = None,
) -> ValueProblem:
    """The value problem of the learner's next step, read off the live optimizer.

    Args:
        run: an arm with a designer.
        observed: unlabeled batches with what tasks take from the learner, the next one first.
        feedback: position of the labelled batch, or what has been asked of it.
        gains: watches the gates of the tasks; None does not.
    """
    if isinstance(feedback, int):
        feedback = feedback_at(run, feedback)
    state, options = run.state, run.options
    assert state.designer is not None
    live = state.functional.live
    pace = run.pace
    in_window = state.counters.micro_batch % options.accumulate if pace is None else pace.begun
    size = state.optimizer.param_groups[0]["lr"]  # all groups follow one schedule
    foreseen = options.look_ahead > 1 and run.plan.budget.unit != "steps"
    accumulated = None
    if in_window:
        held = {n: p.grad.detach() for n, p in live.items() if p.grad is not None}
        accumulated = run.workload.processes.summed(held, like=trees.detach(live))
        if pace is not None and pace.gradient_of != 1:
            accumulated = {n: g / pace.gradient_of for n, g in accumulated.items()}
    schedule = None
    if options.look_ahead > 1:
        schedule = (lambda k: run.later_size(k) / size) if pace is None else pace.schedule
    rule, optimizer_state = from_optimizer(
        state.optimizer,
        live,
        clip=_simulated_clip(run),
        accumulated=accumulated,
        windows=windows_ahead(run),
        schedule=schedule,
    )
    problem = run.workload.problem(
        run.estimated,
        state.designer,
        observed,
        feedback.downstream,
        rule,
        optimizer_state,
        dropout=feedback.dropout,
        seed=_seed(run),
        known=feedback.known,
        gains=gains,
    )
    if state.held_mean is not None or state.running is not None:
        problem = problem.with_means(state.means)
    if foreseen:  # a budget of steps says what they will be
        problem = replace(problem, notes={**problem.notes, "later_sizes_predicted": True})
    return problem


def windows_ahead(run: ArmRun) -> tuple[Shares, ...]:
    """The shares of what each step takes that is looked ahead to; of this window, the rest.

    Args:
        run: the arm, before a micro-batch.
    """
    if run.pace is not None:
        return run.pace.windows(run.options.look_ahead)
    every = run.options.accumulate
    left = every - run.state.counters.micro_batch % every
    later = run.options.look_ahead - 1
    return ((1 / every,) * left, *((1 / every,) * every,) * later)


def batches_ahead(run: ArmRun) -> int:
    """How many unlabeled batches an estimate takes, the present micro-batch's first.

    Where it is of the next step alone, or in a random direction, that one is enough: the rest of
    its window is left out. An estimator with an attribute `mean_batches` has as many at least,
    whichever windows they belong to: micro-batches of the stream as the learner is now.

    Args:
        run: the arm, before a micro-batch.
    """
    further = run.options.look_ahead > 1 and not run.arm.random
    looked_ahead = sum(map(len, windows_ahead(run))) if further else 1
    return max(looked_ahead, getattr(run.estimator, "mean_batches", 0))


def _simulated_clip(run: ArmRun) -> Clip | None:
    """The live clipping. Outside S the norm is the last step's: this one's is not known yet."""
    state, clip = run.state, run.options.clip
    if not clip:
        return None
    trainable = {name for name, p in state.learner.named_parameters() if p.requires_grad}
    whole = trainable == set(state.functional.names)
    return Clip(clip, None if whole else state.counters.outside_norm)


def _estimate_is_due(run: ArmRun) -> bool:
    """Whether the designer is updated before this micro-batch."""
    if run.estimator is None or run.state.designer_optimizer is None:
        return False
    since = run.state.counters.micro_batch - run.options.burn_in
    return since >= 0 and since % run.options.meta_period == 0


def _update_designer(run: ArmRun, forward: Forward, feedback: FeedbackNow) -> ValueEstimate:
    """An update of the designer by one estimate; none where the feedback says nothing."""
    state, workload, estimator = run.state, run.workload, run.estimator
    designer = state.designer
    assert estimator is not None and designer is not None
    at = state.counters
    estimated = run.estimated if feedback.dropout is None else None
    ahead = tuple(
        workload.look_ahead(state.learner, workload.batch(at.micro_batch + k), estimated=estimated)
        for k in range(1, batches_ahead(run))
    )
    gains = Gains() if any(run.options.penalties_in_values.values()) else None
    problem = value_problem(run, (forward.observed, *ahead), feedback, gains)
    phi = trees.detach(dict(designer.named_parameters()))
    if problem.silent:
        state.counters = replace(at, updates=at.updates + 1)
        return _nothing_to_estimate(problem, phi)
    try:
        estimate = (DomainMatched(estimator) if problem.domains else estimator)(
            problem, feedback.theta, phi
        )
    except NotConvergedError as error:
        raise NotConvergedError(f"{error} ({_where(run)})") from error
    if not isinstance(estimate, ValueEstimate):
        raise UserError(
            f"the estimator returned a {type(estimate).__name__}; it has to return a ValueEstimate"
        )
    _require_finite("the value", float(estimate.value), run)
    again, steps = estimate.again, run.options.designer_steps
    if steps > 1 and again is None:
        raise UserError(
            f"--designer-steps {steps} goes on from one estimate to what it is at the next "
            "designers, and this estimator's does not say that: leave it out"
        )
    typical = _step_designer(run, forward, problem, estimate, gains)
    for _ in range(1, steps):
        assert again is not None
        if gains is not None:
            gains.found.clear()
        phi = trees.detach(dict(designer.named_parameters()))
        _step_designer(run, forward, problem, again(phi), gains)
    state.counters = replace(at, updates=at.updates + 1)
    split = {"split": problem.split} if problem.split else {}
    said = {**estimate.diagnostics, **split, **problem.notes, **typical}
    return replace(estimate, diagnostics=said, again=None)


def _step_designer(
    run: ArmRun,
    forward: Forward,
    problem: ValueProblem,
    estimate: ValueEstimate,
    gains: Gains | None,
) -> dict[str, float]:
    """One step of the designer's optimizer along an estimate and its penalties.

    Returns:
        The typical value that penalties were in units of, if they were.
    """
    designer, optimizer, workload = run.state.designer, run.state.designer_optimizer, run.workload
    assert designer is not None and optimizer is not None
    _require_finite("the designer's objective", float(estimate.objective), run)
    parameters: Params = dict(designer.named_parameters())
    try:
        estimate.descend(parameters)
    except NonFiniteError as error:
        raise NonFiniteError(f"the designer's gradient is not finite ({_where(run)})") from error
    penalties, typical = dict(run.options.penalties), {}
    if gains is not None:
        in_values = run.options.penalties_in_values
        value = gains.typical(estimate.scale, len(problem.domains) or 1, workload.processes)
        _require_finite("the typical value of a token", value, run)
        for name, share in in_values.items():
            penalties[name] = penalties.get(name, 0.0) + share * value
        typical = {"typical_value": value}
    if any(penalties.values()):
        penalty = _penalty_gradient(run, parameters, forward, penalties)
        for name, parameter in parameters.items():
            assert parameter.grad is not None
            parameter.grad = parameter.grad + penalty[name]
    if not trees.is_finite({n: p.grad for n, p in parameters.items() if p.grad is not None}):
        optimizer.zero_grad(set_to_none=True)
        raise NonFiniteError(f"the designer's gradient is not finite ({_where(run)})")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return typical


def _nothing_to_estimate(problem: ValueProblem, phi: Params) -> ValueEstimate:
    """The estimate of any task's value for an L_down that is constant: zero."""
    zero = torch.zeros(())
    notes = {"silent": True, **problem.notes}
    return ValueEstimate(zero, zero, trees.zeros_like(phi), 1.0, notes)


def _penalty_gradient(
    run: ArmRun, phi: Params, forward: Forward, penalties: Mapping[str, float]
) -> Params:
    """grad_phi of sum_i lambda_i R_i, lambda held constant."""
    designer = run.state.designer
    assert designer is not None
    phi = trees.leaves(phi)
    terms = run.workload.regularisers(designer, phi, forward.observed)
    total = sum((penalties[name] * terms[name] for name in penalties), torch.zeros(()))
    return run.workload.processes.summed(trees.gradient(total, phi))


def _require_finite(what: str, number: float, run: ArmRun) -> None:
    if not math.isfinite(number):
        raise NonFiniteError(f"{what} is {number} ({_where(run)})")


def _where(run: ArmRun) -> str:
    return f"{run.where}, micro-batch {run.state.counters.micro_batch}"
