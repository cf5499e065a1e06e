"""Runs the one-step probe and maps values halfway through an arm, without training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from vfunc import trees
from vfunc.evaluation.probe import ProbePoint, probe_points
from vfunc.problem import ValueProblem, construct_task, feedback_gradient
from vfunc.pullback import mixed_product
from vfunc.training.arm_run import ArmRun
from vfunc.training.step import value_problem
from vfunc.trees import Params


def probe(run: ArmRun) -> None:
    """The one-step probe, on batches and feedback that training has not come to yet.

    Args:
        run: an arm with a designer; only its counters change. The plan says how many batches.
    """
    state, workload, at = run.state, run.workload, run.state.counters
    assert state.designer is not None
    theta = state.functional.theta
    phi = trees.detach(dict(state.designer.named_parameters()))
    points: list[ProbePoint] = []
    # each batch stands for a whole window
    single = replace(run, options=replace(run.options, accumulate=1))
    for k in range(run.plan.probe_batches):
        observed = workload.look_ahead(state.learner, workload.batch(at.micro_batch + 1 + k))
        problem = value_problem(single, (observed,), at.updates + k)
        held_out = workload.held_out(run.estimated, k)
        points += probe_points(problem, theta, phi, held_out)
        if k == 0:
            _map_values(run, problem, phi, observed)
    state.counters = replace(at, probed=True)
    for point in points:
        fields = {"arm": run.arm.name, "at_step": at.step, "step_kind": point.step}
        rest = {k: v for k, v in vars(point).items() if k != "step"}
        run.log.event("probe", fields | rest)


def _map_values(run: ArmRun, problem: ValueProblem, phi: Params, observed: Any) -> None:
    """Where in a task the value lies, for a picture: the pullback's own learner part."""
    state = run.state
    assert state.designer is not None
    theta = state.functional.theta
    construction = construct_task(problem, phi, observed)
    _, g_down = feedback_gradient(problem, theta)
    engine = getattr(run.estimator, "engine", "auto")
    product = mixed_product(problem, theta, construction, g_down, engine)
    fields = run.workload.value_map(
        run.estimated, state.designer, observed, construction.task, product.task
    )
    run.log.event("value_map", {"arm": run.arm.name, "at_step": state.counters.step, **fields})
