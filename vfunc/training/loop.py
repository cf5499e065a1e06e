"""One arm, from its state to the end of its budget."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import torch

from vfunc import trees
from vfunc.errors import NonFiniteError
from vfunc.estimators import Estimator
from vfunc.learner import mode
from vfunc.training.arms import Arm
from vfunc.training.budget import Budget, Schedule, spent_fraction
from vfunc.training.interrupt import noting_interrupts
from vfunc.training.log import Log
from vfunc.training.probing import probe
from vfunc.training.state import ArmState
from vfunc.training.step import (
    MicroBatch,
    StepOptions,
    micro_batch,
    optimizer_step,
)
from vfunc.workload import Evaluation, Workload

ENGINE_NOTES = ("engine", "engine_why", "hessian_engine", "split")
"""What an estimate says of how it was differentiated."""


@dataclass(frozen=True)
class ArmPlan:
    """What an arm's training is bounded and followed by.

    Attributes:
        budget: how long it trains.
        lr: peak step size.
        schedule: step size as a function of the budget's spent fraction.
        eval_every: fraction of the budget between held-out evaluations.
        save_every: fraction of the budget between checkpoints.
        probe_batches: batches of the one-step probe, made halfway; 0 makes none.
    """

    budget: Budget
    lr: float
    schedule: Schedule
    eval_every: float
    save_every: float
    probe_batches: int


def run_arm(
    arm: Arm,
    state: ArmState,
    workload: Workload,
    estimator: Estimator | None,
    options: StepOptions,
    plan: ArmPlan,
    log: Log,
) -> Evaluation:
    """Train one arm to the end of its budget, from wherever its state is.

    Seconds count training alone: evaluation, the probe and saving are outside the clock.

    Args:
        arm: which tasks.
        state: changed in place.
        workload: the modality.
        estimator: of the designer's value, or None.
        options: of a step.
        plan: of the whole.
        log: where news go.

    Returns:
        The final evaluation.

    Raises:
        NonFiniteError: something is not finite; the checkpoint on disk is from before that.
        KeyboardInterrupt: the user asked to stop; the state after the last whole step is on disk.
    """
    if state.counters.step == 0:
        _evaluate(arm, state, workload, log, final=False)
        log.checkpoint(state)
    with noting_interrupts() as stop:
        _follow(
            arm, state, workload, estimator, options, plan, log
        )  # what an interrupt left undone
        while (fraction := _fraction(plan, state)) < 1.0:
            first = state.counters.updates == 0
            done = _one_step(arm, state, workload, estimator, options, plan, fraction)
            after = _fraction(plan, state)
            _report(arm, state, workload, done, after, log, first=first)
            if stop.asked:
                _save(arm, state, workload, log)
                raise KeyboardInterrupt(f"stopped after step {state.counters.step} of {arm.name}")
            _follow(arm, state, workload, estimator, options, plan, log)
            if after == 1.0 or _crosses(plan.save_every, fraction, after):
                _save(arm, state, workload, log)
    return _evaluate(arm, state, workload, log, final=True)


def _one_step(
    arm: Arm,
    state: ArmState,
    workload: Workload,
    estimator: Estimator | None,
    options: StepOptions,
    plan: ArmPlan,
    fraction: float,
) -> dict[str, Any]:
    """One optimizer step: its micro-batches, then the step; returns what to log."""
    lr = plan.lr * plan.schedule.factor(fraction)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    began = time.perf_counter()
    before = state.counters
    taken = [
        micro_batch(arm, state, workload, estimator, options) for _ in range(options.accumulate)
    ]
    norm = optimizer_step(arm, state, options)
    workload.stepped(state.learner, [m.carried for m in taken], fraction)
    seconds = time.perf_counter() - began
    state.counters = state.counters.advanced(seconds=state.counters.seconds + seconds)
    units = state.counters.units - before.units
    return {
        "lr": lr,
        "gradient_norm": norm,
        "units_a_second": units / seconds if seconds > 0 else 0.0,
        **_mean_notes(taken),
    }


def _mean_notes(taken: list[MicroBatch]) -> dict[str, Any]:
    """Means over the window's micro-batches; the last estimate of it in full."""
    notes: dict[str, Any] = {"train_loss": sum(m.loss for m in taken) / len(taken)}
    for key in dict.fromkeys(key for m in taken for key in m.notes):
        values = [m.notes[key] for m in taken if key in m.notes]
        notes[key] = sum(values) / len(values)
    estimates = [m.estimate for m in taken if m.estimate is not None]
    if estimates:
        last = estimates[-1]
        notes["value"] = float(last.value)
        notes["objective"] = float(last.objective)
        notes["designer_gradient_norm"] = float(trees.norm(last.grad)) / last.scale
        notes["estimate"] = dict(last.diagnostics)
    return notes


def _counted(arm: Arm, state: ArmState, workload: Workload) -> dict[str, Any]:
    """Where an arm stands, as every event says it."""
    at = state.counters
    return {"arm": arm.name, "step": at.step, workload.unit: at.units, "seconds": at.seconds}


def _report(
    arm: Arm,
    state: ArmState,
    workload: Workload,
    done: dict[str, Any],
    fraction: float,
    log: Log,
    *,
    first: bool,
) -> None:
    """Log a step; and with the first estimate, which engine made it and why."""
    counted = _counted(arm, state, workload)
    if first and "engine" in done.get("estimate", {}):
        said = {name: done["estimate"].get(name, "") for name in ENGINE_NOTES}
        log.event("engine", counted | said)
    log.event("step", counted | done)
    log.progress(fraction, counted | done)


def _follow(
    arm: Arm,
    state: ArmState,
    workload: Workload,
    estimator: Estimator | None,
    options: StepOptions,
    plan: ArmPlan,
    log: Log,
) -> None:
    """Evaluate and probe, if that has come due since this was last asked.

    The counters remember when that was: an arm that is stopped between a step and its evaluation
    makes it up when it is resumed.
    """
    at = state.counters
    before, now = spent_fraction(plan.budget, *at.followed), _fraction(plan, state)
    if _crosses(plan.eval_every, before, now) and now < 1.0:
        _evaluate(arm, state, workload, log, final=False)
    if arm.designed and plan.probe_batches and now >= 0.5 and not at.probed:
        engine = getattr(estimator, "engine", "auto")
        probe(arm, state, workload, options, plan.probe_batches, log, engine)
    state.counters = state.counters.advanced(followed=(at.step, at.units, at.seconds))


def _save(arm: Arm, state: ArmState, workload: Workload, log: Log) -> None:
    """Write a checkpoint, unless the arm cannot go on from here: then the one on disk is better.

    A step that was too long leaves parameters that are still finite; only the next loss tells.
    """
    batch = workload.batch(state.counters.micro_batch)
    with torch.no_grad(), mode(state.learner, training=False):
        forward = workload.forward(state.learner, batch, observe=arm.observes)
        task = workload.build_task(state.learner, arm.name, forward, state.designer)
        loss = workload.loss(state.learner, forward, task)
    if math.isfinite(float(loss)):
        log.checkpoint(state)


def _evaluate(
    arm: Arm, state: ArmState, workload: Workload, log: Log, *, final: bool
) -> Evaluation:
    """Evaluate in eval mode; training goes on as if nothing had been."""
    evaluation = workload.evaluate(state.learner, final=final)
    loss = evaluation.metrics["loss"]
    if not math.isfinite(loss):
        where = f"arm {arm.name}, step {state.counters.step}"
        raise NonFiniteError(f"the held-out loss is {loss} ({where})")
    counted = _counted(arm, state, workload)
    names = {"loss": "heldout_loss"}
    measured = {names.get(k, k): v for k, v in evaluation.metrics.items()}
    log.event("evaluation", counted | {"final": final} | measured)
    return evaluation


def _fraction(plan: ArmPlan, state: ArmState) -> float:
    at = state.counters
    return spent_fraction(plan.budget, at.step, at.units, at.seconds)


def _crosses(every: float, before: float, after: float) -> bool:
    return every > 0 and int(after / every + 1e-9) > int(before / every + 1e-9)
