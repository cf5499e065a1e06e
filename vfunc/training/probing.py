"""The one-step probe and the value map, halfway through an arm: pictures, never training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from vfunc import trees
from vfunc.evaluation.probe import ProbePoint, probe_points
from vfunc.problem import ValueProblem, construct_task, feedback_gradient
from vfunc.pullback import Engine, mixed_product
from vfunc.training.arms import Arm
from vfunc.training.log import Log
from vfunc.training.state import ArmState
from vfunc.training.step import StepOptions, value_problem
from vfunc.trees import Params
from vfunc.workload import Workload


def probe(
    arm: Arm,
    state: ArmState,
    workload: Workload,
    options: StepOptions,
    batches: int,
    log: Log,
    engine: str | Engine = "auto",
) -> None:
    """The one-step probe, on batches and feedback that training has not come to yet.

    Args:
        arm: whose tasks are probed.
        state: the arm; only its counters change.
        workload: the modality.
        options: of a step.
        batches: how many.
        log: where the points go.
        engine: of the value map's mixed product.
    """
    assert state.designer is not None
    at = state.counters
    theta = state.functional.theta
    phi = trees.detach(dict(state.designer.named_parameters()))
    points: list[ProbePoint] = []
    options = replace(options, accumulate=1)  # each batch stands for a whole window
    for k in range(batches):
        observed = workload.look_ahead(state.learner, workload.batch(at.micro_batch + 1 + k))
        problem = value_problem(
            state, workload, options, (observed,), workload.feedback(at.updates + k), None
        )
        held_out: Callable = workload.held_out(state.functional, k)
        points += probe_points(problem, theta, phi, held_out)
        if k == 0:
            _map_values(arm, state, workload, problem, phi, observed, log, engine)
    state.counters = at.advanced(probed=True)
    for point in points:
        fields = {"arm": arm.name, "at_step": at.step, "step_kind": point.step}
        rest = {k: v for k, v in vars(point).items() if k != "step"}
        log.event("probe", fields | rest)


def _map_values(
    arm: Arm,
    state: ArmState,
    workload: Workload,
    problem: ValueProblem,
    phi: Params,
    observed: Any,
    log: Log,
    engine: str | Engine,
) -> None:
    """Where in a task the value lies, for a picture: the pullback's own learner part."""
    assert state.designer is not None
    theta = state.functional.theta
    construction = construct_task(problem, phi, observed)
    _, g_down = feedback_gradient(problem, theta)
    product = mixed_product(problem, theta, construction, g_down, engine)
    fields = workload.value_map(
        state.functional, state.designer, observed, construction.task, product.task
    )
    log.event("value_map", {"arm": arm.name, "at_step": state.counters.step, **fields})
