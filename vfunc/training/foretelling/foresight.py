"""What g_down and known tasks tell before any training: is this feedback large and similar enough?

A gradient of L_down is of use where two independent draws of feedback agree, and where feedback
agrees with held-out examples, which it stands for. Where the second is much less than the first, or
negative, more feedback does not help: the two are different in kind. And where a task is known to
be right, its value has to be above that of leaving the data as they are, by several times its
spread over batches, or no designer can find it.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from vfunc import trees
from vfunc.evaluation.signal import cosine_of
from vfunc.problem import construct_task, known_feedback, step_gradient
from vfunc.training.arm_run import ArmRun
from vfunc.training.step import feedback_at, value_problem
from vfunc.trees import Params
from vfunc.workload import Half

PLAIN = "baseline"
"""The task that leaves the data as they are."""


def foresee(run: ArmRun) -> dict[str, Any]:
    """What there is to tell of an arm's feedback and tasks, as it stands; nothing is trained.

    Args:
        run: an arm with a designer.

    Returns:
        `agreement_within`, the cosine of g_down over two draws of feedback that share nothing;
        `agreement_held_out`, that of a draw of feedback and one of held-out examples, mean of two;
        `agreement_examples` in a draw; and, where tasks are known, `gaps`: by name V(task) -
        V(baseline) per batch, with its t value. What is not defined is left out.
    """
    theta, processes = run.state.functional.theta, run.workload.processes

    def gradient(half: Half) -> Params:
        total = trees.zeros_like(theta)
        for loss in half.losses:
            g = known_feedback(loss, theta, processes).gradient
            total = trees.axpy(1 / len(half.losses), g, total)
        return total

    halves = run.workload.halves(run.estimated)
    if halves is None:
        return {}
    feedback, held_out = (tuple(map(gradient, pair)) for pair in halves)
    across = [cosine_of(feedback[0], held_out[1]), cosine_of(feedback[1], held_out[0])]
    found: dict[str, Any] = {
        "agreement_within": cosine_of(*feedback),
        "agreement_held_out": None
        if None in across
        else statistics.fmean(c or 0.0 for c in across),
        "agreement_examples": halves[0][0].examples,
    }
    found["gaps"] = _gaps(run, trees.scale(trees.axpy(1.0, *feedback), 0.5)) or None
    return {name: value for name, value in found.items() if value is not None}


def _gaps(run: ArmRun, g_down: Params) -> dict[str, dict[str, float]]:
    """By known task: mean over batches of V(task) - V(baseline), and its t value."""
    state, workload, at = run.state, run.workload, run.state.counters
    assert state.designer is not None
    theta = state.functional.theta
    phi = trees.detach(dict(state.designer.named_parameters()))
    size = state.optimizer.param_groups[0]["lr"]
    values: dict[str, list[float]] = {}
    feedback = feedback_at(run, 0)  # of which nothing is asked here
    for k in range(run.plan.probe_batches):
        position = at.micro_batch + 1 + k
        observed = workload.look_ahead(state.learner, workload.batch(position))
        problem = value_problem(run, (observed,), feedback)
        task = construct_task(problem, phi, problem.batches[0]).task
        tasks = workload.known_tasks(run.estimated, position, problem.batches[0], task)
        if not tasks:
            continue
        for name, known in tasks.items():
            g = trees.filled(step_gradient(problem, theta, known), theta)
            values.setdefault(name, []).append(size * float(trees.dot(g_down, g)))
    return {
        name: _told([a - b for a, b in zip(found, values[PLAIN], strict=True)])
        for name, found in values.items()
        if name != PLAIN
    }


def _told(differences: Sequence[float]) -> dict[str, float]:
    """Mean and number of differences, and Student's t where they have a spread."""
    count, mean = len(differences), statistics.fmean(differences)
    found = {"mean": mean, "batches": float(count)}
    spread = statistics.stdev(differences) if count > 1 else 0.0
    return found | ({"t": mean / (spread / math.sqrt(count))} if spread else {})
