"""Runs the one-step probe and looks at g_down halfway through an arm; nothing is trained on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from vfunc import trees
from vfunc.errors import UserError
from vfunc.evaluation.probe import ProbePoint, probe_points
from vfunc.evaluation.signal import KnownMistakes, Scores, cosine_of, directions, scores_along
from vfunc.problem import Task, ValueProblem, construct_task, step_gradient
from vfunc.training.arm_run import ArmRun
from vfunc.training.mapping import feedback_halves
from vfunc.training.step import value_problem
from vfunc.trees import Params

SCORED_BATCHES = 4
"""Batches of the stream whose known mistakes are looked at, at most."""


def probe(run: ArmRun) -> None:
    """The one-step probe, on batches and feedback that training has not come to yet.

    Args:
        run: an arm with a designer; only its counters change. The plan says how many batches.
    """
    state, workload, at = run.state, run.workload, run.state.counters
    assert state.designer is not None
    theta = state.functional.theta
    points: list[ProbePoint] = []
    mean, mistakes = trees.zeros_like(theta), list[KnownMistakes]()
    seen: list[Any] = []
    for k in range(run.plan.probe_batches):
        one = probed_batch(run, k)
        points += one.points
        mean = trees.axpy(1 / run.plan.probe_batches, trees.filled(one.gradient, theta), mean)
        first = one.problem.batches[0]
        if k < SCORED_BATCHES and (known := workload.known_wrong(first, one.task)):
            mistakes.append(KnownMistakes(one.problem, *known))
        if k < SCORED_BATCHES:
            seen.append(one.observed)
    state.counters = replace(at, probed=True)
    for point in points:
        fields = {"arm": run.arm.name, "at_step": at.step, "step_kind": point.step}
        rest = {k: v for k, v in vars(point).items() if k != "step"}
        run.log.event("probe", fields | rest)
    told = {"arm": run.arm.name, "at_step": at.step}
    run.log.event("signal", told | _signal(run, theta, mean, mistakes, seen))


@dataclass(frozen=True)
class ProbedBatch:
    """A micro-batch that was probed.

    Attributes:
        points: predicted and realised decreases, two kinds of step on two losses.
        problem: its value problem.
        task: what the designer makes of it.
        gradient: the learner's gradient on that task.
        observed: the micro-batch as the task is made of it.
    """

    points: list[ProbePoint]
    problem: ValueProblem
    task: Task
    gradient: Params
    observed: Any


def probed_batch(run: ArmRun, k: int) -> ProbedBatch:
    """Probe one micro-batch by the designer's task, from the arm's state, which stays as it is.

    It is the k-th behind the next one of the stream, with the k-th batch of feedback that training
    has not come to yet, and the k-th of held-out examples.

    Args:
        run: an arm with a designer.
        k: from 0.
    """
    state, workload, at = run.state, run.workload, run.state.counters
    assert state.designer is not None
    theta = state.functional.theta
    phi = trees.detach(dict(state.designer.named_parameters()))
    # each batch stands for a whole window
    single = replace(run, options=replace(run.options, accumulate=1))
    observed = workload.look_ahead(state.learner, workload.batch(at.micro_batch + 1 + k))
    problem = value_problem(single, (observed,), at.updates + k)
    held_out = workload.held_out(run.estimated, k)
    task = construct_task(problem, phi, problem.batches[0]).task
    g = step_gradient(problem, theta, task)
    points = probe_points(problem, theta, phi, held_out, gradient=g)
    return ProbedBatch(points, problem, task, g, observed)


def _signal(
    run: ArmRun, theta: Params, mean: Params, mistakes: list[KnownMistakes], seen: list[Any]
) -> dict[str, Any]:
    """What g_down sees, for the log; what is not defined here is left out.

    g_down is that of feedback batches that share no example, in two halves.

    Args:
        run: the arm.
        theta: the learner's parameters.
        mean: the mean gradient of the stream's next batches.
        mistakes: some of these batches, if any of their tokens are known to be mistaken.
        seen: some of these batches as they were observed.
    """
    processes = run.workload.processes
    (first, n), (second, m) = feedback_halves(run, theta)
    g_down = trees.scale(trees.axpy(1.0, first, second), 1 / (n + m))
    found: dict[str, Any] = {"feedback_batches": n + m, "mean_cosine": cosine_of(g_down, mean)}
    if m:
        found["feedback_agreement"] = cosine_of(first, second)
    if (gap := _oracle_gap(run, g_down, seen)) is not None:
        found["oracle_gap"] = gap
    try:
        for name, w in directions(g_down, mean).items():
            own = sum((scores_along(m, theta, w) for m in mistakes), Scores((), ()))
            scores = sum(processes.every(own), Scores((), ()))
            if scores.area is not None:
                found |= {"wrong_tokens": len(scores.wrong), f"auc_{name}": scores.area}
    except UserError as error:  # kernels without a forward mode, the same in every process
        found["auc_why"] = str(error)
    return {k: v for k, v in found.items() if v is not None}


def _oracle_gap(run: ArmRun, g_down: Params, seen: list[Any]) -> float | None:
    """(V(designer) - V(text)) / (V(oracle) - V(text)), V by this g_down, over some batches."""
    assert run.state.designer is not None
    ways = ("text", "designer", "oracle")
    sums = dict.fromkeys(ways, 0.0)
    for observed in seen:
        of_batch = run.workload.values_in_bounds(
            run.estimated, run.state.designer, observed, g_down
        )
        if not of_batch:
            return None
        sums = {name: sums[name] + of_batch[name] for name in ways}
    text, designer, oracle = run.workload.processes.totals(*sums.values())
    return (designer - text) / (oracle - text) if oracle > text else None
