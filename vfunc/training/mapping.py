"""Maps where the value lies in a few texts or pictures, before an arm trains and after."""

from __future__ import annotations

from typing import Literal

from vfunc import trees
from vfunc.evaluation.signal import directions
from vfunc.problem import construct_task, known_feedback, step_gradient
from vfunc.pullback import mixed_product
from vfunc.training.arm_run import ArmRun
from vfunc.training.step import feedback_at, value_problem
from vfunc.trees import Params

FEEDBACK_BATCHES = 8
"""Feedback batches that g_down is of, at most."""

MEAN_BATCHES = 4
"""Batches of the stream whose mean gradient deflation takes out, at most."""


def map_values(run: ArmRun, when: Literal["start", "end"]) -> None:
    """Log where the value lies in the first batch of the stream, along dot's and deflated's w.

    The same texts at both times, so that the two can be laid side by side: at the start nobody has
    trained on them yet, at the end the arm once at least. Nothing is changed.

    Args:
        run: an arm with a designer.
        when: before it trains, or after.
    """
    state, workload = run.state, run.workload
    assert state.designer is not None
    theta = state.functional.theta
    phi = trees.detach(dict(state.designer.named_parameters()))
    first, second = feedback_halves(run, theta)
    g_down = trees.axpy(1.0, first[0], second[0])
    g_down = trees.scale(g_down, 1 / (first[1] + second[1]))
    feedback = feedback_at(run, 0)  # of which nothing is asked
    mean = trees.zeros_like(theta)
    count = min(run.plan.probe_batches, MEAN_BATCHES)
    for k in range(count):
        observed = workload.look_ahead(state.learner, workload.batch(k))
        problem = value_problem(run, (observed,), feedback)
        task = construct_task(problem, phi, problem.batches[0]).task
        g = trees.filled(step_gradient(problem, theta, task), theta)
        mean = trees.axpy(1 / count, g, mean)
    observed = workload.look_ahead(state.learner, workload.batch(0))
    problem = value_problem(run, (observed,), feedback)
    construction = construct_task(problem, phi, problem.batches[0])
    engine = getattr(run.estimator, "engine", "auto")
    cotangents = {
        name: mixed_product(problem, theta, construction, w, engine).task
        for name, w in directions(g_down, mean).items()
    }
    fields = workload.value_map(
        run.estimated, state.designer, problem.batches[0], construction.task, cotangents
    )
    if not fields:
        return
    told = {"arm": run.arm.name, "when": when, "at_step": state.counters.step}
    run.log.event("value_map", told | fields)


def feedback_halves(run: ArmRun, theta: Params) -> tuple[tuple[Params, int], tuple[Params, int]]:
    """Sums of g_down over two halves of some feedback batches, which share none, and their numbers.

    Where there is one batch alone, the second half is empty.

    Args:
        run: an arm with a designer.
        theta: where the gradients are taken.
    """
    count = max(1, min(run.workload.feedback_batches(), run.plan.probe_batches, FEEDBACK_BATCHES))
    count -= count % 2 if count > 1 else 0
    halves, numbers = [trees.zeros_like(theta), trees.zeros_like(theta)], [0, 0]
    for k in range(count):
        downstream, half = feedback_at(run, k).downstream, 2 * k // count
        numbers[half] += 1
        if not downstream.constant:
            g = known_feedback(downstream.loss, theta, run.workload.processes).gradient
            halves[half] = trees.axpy(1.0, g, halves[half])
    return (halves[0], numbers[0]), (halves[1], numbers[1])
