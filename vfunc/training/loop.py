"""Trains one arm, from its state to the end of its budget."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from operator import mul
from typing import Any

import torch

from vfunc import trees
from vfunc.errors import NonFiniteError
from vfunc.learner import mode
from vfunc.sharding import replicated
from vfunc.training.arm_run import ArmRun
from vfunc.training.foretelling.foresight import foresee
from vfunc.training.interrupt import noting_interrupts
from vfunc.training.mapping import map_values
from vfunc.training.probing import probe
from vfunc.training.step import MicroBatch, micro_batch, optimizer_step, warm_up
from vfunc.workload import Evaluation

ENGINE_NOTES = ("engine", "engine_why", "hessian_engine", "split")
"""What an estimate says of how it was differentiated."""


def run_arm(run: ArmRun) -> Evaluation:
    """Train one arm to the end of its budget, from wherever its state is.

    Seconds count training alone: evaluation, the probe and saving are outside the clock.

    Args:
        run: the arm; its state is changed in place.

    Returns:
        The final evaluation.

    Raises:
        NonFiniteError: something is not finite; the checkpoint on disk is from before that.
        Interrupted: a signal asked to stop; the state after the last whole step is on disk.
    """
    processes = run.workload.processes
    _require_same(run)
    if run.state.counters.step == 0:
        evaluate_arm(run, final=False)
        _foresee(run)
        if _told_in_maps(run):
            map_values(run, "start")
        run.log.checkpoint(run.state)
    with noting_interrupts() as stop:
        follow(run)  # what an interrupt left undone
        while (before := fraction_spent(run)) < 1.0:
            for _ in _warmed_up(run):
                stop.signum = processes.any(stop.signum)
                if stop.requested:
                    save(run)
                    raise stop.raised(f"stopped while the designer of {run.arm.name} warms up")
            first = run.state.counters.updates <= run.options.designer_warmup
            done = one_step(run)
            report(run, done, first=first)
            stop.signum = processes.any(stop.signum)
            if stop.requested:
                save(run)
                at = run.state.counters
                raise stop.raised(f"stopped after step {at.step} of {run.arm.name}")
            follow(run)
            spent = fraction_spent(run)
            if spent == 1.0 or crosses(run.plan.save_every, before, spent):
                save(run)
    _require_same(run)
    if _told_in_maps(run):
        map_values(run, "end")
    return evaluate_arm(run, final=True)


def _told_in_maps(run: ArmRun) -> bool:
    """Whether an arm's values are mapped: one with a designer, unless no probe is asked for."""
    return run.arm.designed and run.plan.probe_batches > 0


def _foresee(run: ArmRun) -> None:
    """Tell, before it trains, what is to be expected of an arm's feedback, if a probe is asked."""
    if not run.arm.designed or run.arm.random or not run.plan.probe_batches:
        return
    if found := foresee(run):
        run.log.event("foresight", {"arm": run.arm.name, "at_step": 0, **found})


def _warmed_up(run: ArmRun) -> Iterator[None]:
    """The designer's warm-up, update by update; its seconds count, and each is an event."""
    estimates, began = warm_up(run), time.perf_counter()
    for estimate in estimates:
        state, processes = run.state, run.workload.processes
        seconds = processes.agreed(time.perf_counter() - began)
        at = state.counters
        state.counters = replace(at, seconds=at.seconds + seconds)
        told = {"update": at.updates, "value": float(estimate.value)}
        run.log.event("designer_warmup", run.counted | told)
        yield
        began = time.perf_counter()


def _require_same(run: ArmRun) -> None:
    """Check that all processes hold the same learner and designer."""
    for name, module in (("the learner", run.state.learner), ("the designer", run.state.designer)):
        if module is not None:
            run.workload.processes.require_same(name, replicated(module.state_dict()))


def one_step(run: ArmRun) -> dict[str, Any]:
    """One optimizer step: its micro-batches, then the step; returns what to log."""
    state, fraction = run.state, fraction_spent(run)
    lr = run.plan.size(fraction)
    for group in state.optimizer.param_groups:
        group["lr"] = lr
    final = run.options.designer_final_lr
    if final is not None and state.designer_optimizer is not None:
        for group in state.designer_optimizer.param_groups:
            group["lr"] = run.options.designer_lr * (1 + (final - 1) * fraction)
    began, before = time.perf_counter(), state.counters
    taken = [micro_batch(run) for _ in range(run.options.accumulate)]
    norm = optimizer_step(run)
    run.workload.stepped(state.learner, [m.carried for m in taken], fraction)
    seconds = run.workload.processes.agreed(time.perf_counter() - began)
    state.counters = replace(state.counters, seconds=state.counters.seconds + seconds)
    units = state.counters.units - before.units
    return {
        "lr": lr,
        "gradient_norm": norm,
        "units_a_second": units / seconds if seconds > 0 else 0.0,
        **_mean_notes(taken),
    }


def fraction_spent(run: ArmRun) -> float:
    """The fraction of the arm's budget that is spent."""
    at = run.state.counters
    return run.plan.spent(at.step, at.units, at.seconds)


def _mean_notes(taken: list[MicroBatch]) -> dict[str, Any]:
    """Means over the window's micro-batches; the last estimate of it in full."""
    notes: dict[str, Any] = {"train_loss": sum(m.loss for m in taken) / len(taken)}
    for key in dict.fromkeys(key for m in taken for key in m.notes):
        there = [m for m in taken if key in m.notes]
        counts = [m.counts.get(key, 1.0) for m in there]
        notes[key] = mean_over([m.notes[key] for m in there], counts)
    counted = dict.fromkeys(key for m in taken for key in m.counts if key in m.notes)
    if counted:  # of how many elements (tokens) a note is the mean
        notes["counts"] = {key: sum(m.counts.get(key, 0) for m in taken) for key in counted}
    estimates = [m.estimate for m in taken if m.estimate is not None]
    if estimates:
        last = estimates[-1]
        notes["value"] = float(last.value)
        notes["objective"] = float(last.objective)
        notes["designer_gradient_norm"] = float(trees.norm(last.grad)) / last.scale
        notes["estimate"] = dict(last.diagnostics)
    return notes


def mean_over(values: Sequence[float], counts: Sequence[float]) -> float:
    """The mean over elements, from means of parts and of how many elements each of them is."""
    if len(set(counts)) == 1:
        return sum(values) / len(values)
    return sum(map(mul, values, counts)) / sum(counts)


def report(run: ArmRun, done: dict[str, Any], *, first: bool) -> None:
    """Log a step; and with the first estimate, which engine made it and why."""
    counted = run.counted
    if first and "engine" in done.get("estimate", {}):
        notes = {name: done["estimate"].get(name, "") for name in ENGINE_NOTES}
        run.log.event("engine", counted | notes)
    run.log.event("step", counted | done)
    run.log.progress(fraction_spent(run), counted | done)


def follow(run: ArmRun) -> None:
    """Evaluate and probe, if that has come due since this was last asked.

    The counters remember when that was: an arm that is stopped between a step and its evaluation
    makes it up when it is resumed.
    """
    at, plan, now = run.state.counters, run.plan, fraction_spent(run)
    before = plan.spent(*at.followed)
    if crosses(plan.eval_every, before, now) and now < 1.0:
        evaluate_arm(run, final=False)
    if run.arm.designed and plan.probe_batches and now >= 0.5 and not at.probed:
        probe(run)
    run.state.counters = replace(run.state.counters, followed=(at.step, at.units, at.seconds))


def save(run: ArmRun) -> None:
    """Write a checkpoint, unless the arm cannot go on from here: then the one on disk is better.

    A step that was too long leaves parameters that are still finite; only the next loss tells.
    """
    state, workload = run.state, run.workload
    batch = workload.batch(state.counters.micro_batch)
    with torch.no_grad(), mode(state.learner, training=False):
        forward = workload.forward(state.learner, batch, observe=run.arm.observes)
        task = workload.build_task(state.learner, run.arm.name, forward, state.designer)
        loss = workload.loss(state.learner, forward, task)
    if math.isfinite(*workload.processes.totals(float(loss))):
        run.log.checkpoint(state)


def evaluate_arm(run: ArmRun, *, final: bool) -> Evaluation:
    """Evaluate in eval mode; training goes on as if nothing had been."""
    evaluation = run.workload.evaluate(run.state.learner, final=final)
    loss = evaluation.metrics["loss"]
    assert loss is not None
    if not math.isfinite(loss):
        raise NonFiniteError(f"the held-out loss is {loss} ({run.where})")
    names = {"loss": "heldout_loss"}
    measured = {names.get(k, k): v for k, v in evaluation.metrics.items()}
    run.log.event("evaluation", run.counted | {"final": final} | measured)
    return evaluation


def crosses(every: float, before: float, after: float) -> bool:
    """Whether a multiple of `every`, above 0, lies between two fractions of the budget."""
    return every > 0 and int(after / every + 1e-9) > int(before / every + 1e-9)
