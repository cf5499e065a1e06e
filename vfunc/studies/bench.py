"""Measures each estimator's cost, and its gradient's distance from that of the real step.

All are asked the same question at one state of a real run: after some ordinary steps, so that the
optimizer's moments are warm. Times are ratios to the learner's own forward and backward, taken in
turns within one process, so that a machine whose speed drifts slows both.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from vfunc import trees
from vfunc.arms import ARMS
from vfunc.errors import NotConvergedError, UserError
from vfunc.estimators import Unrolled, make_estimator
from vfunc.evaluation.peak_bytes import counting_peak
from vfunc.problem import ValueEstimate, ValueProblem
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled
from vfunc.training.options.estimator_options import usual_decays
from vfunc.training.start import start_arm
from vfunc.training.state import RunningMeans
from vfunc.training.step import (
    batches_ahead,
    micro_batch,
    optimizer_step,
    value_problem,
    windows_ahead,
)
from vfunc.trees import Params


@dataclass(frozen=True)
class Candidate:
    """An estimator to be measured: its name and options."""

    name: str
    options: Mapping[str, Any]

    @property
    def label(self) -> str:
        """`unrolled lookahead_steps=2`."""
        return " ".join([self.name, *(f"{k}={v}" for k, v in self.options.items())])


CANDIDATES = (
    *(Candidate("first_order", {"engine": e}) for e in ("linear", "forward", "reverse")),
    Candidate("first_order", {"engine": "finite_difference"}),
    Candidate("first_order", {"value": "cosine"}),
    Candidate("first_order", {"value": "preconditioned"}),
    Candidate("first_order", {"value": "deflated"}),
    Candidate("first_order", {"value": "deflated_preconditioned"}),
    Candidate("unrolled", {"lookahead_steps": 1}),
    Candidate("unrolled", {"lookahead_steps": 4}),
    Candidate("unrolled", {"lookahead_steps": 4, "truncate": 2}),
    Candidate("unrolled", {"lookahead_steps": 4, "checkpoint_every": 2}),
    Candidate("implicit", {}),
    Candidate("implicit", {"precondition": "optimizer"}),
    Candidate("implicit", {"curvature": "gauss_newton"}),
    Candidate("implicit", {"solver": "neumann"}),
    Candidate("implicit", {"solver": "nystrom"}),
    Candidate("random", {}),
)


@dataclass(frozen=True)
class Row:
    """One estimator's measurements.

    Attributes:
        label: the estimator and its options.
        engine: that did the pullback; "" if it failed.
        passes: forwards, backwards and tangents, or why there is no estimate.
        time: seconds over the learner's own forward and backward: median, least, most.
        memory: peak bytes over the learner's own.
        cosine: cosine of its gradient in phi and that of the realised step (`unrolled`, one step);
            None where one is zero.
        value: the predicted decrease of L_down, over the realised one-step decrease; None where
            the prediction is of several steps, or the step brings nothing.
    """

    label: str
    engine: str
    passes: str
    time: tuple[float, float, float] | None = None
    memory: float | None = None
    cosine: float | None = None
    value: float | None = None


def bench(
    assembled: Assembled, candidates: Sequence[Candidate], steps: int, repeats: int
) -> list[Row]:
    """Measure estimators at one state.

    Args:
        assembled: the parts of a run: its learner, data and options.
        candidates: the estimators.
        steps: the learner's steps before the measurement.
        repeats: paired repeats of each time.

    Returns:
        A row each, in order; one that does not apply here says why.
    """
    run = start_arm("vpretraining", assembled)
    decays = usual_decays(max(map(_means, candidates)))
    run.state.running = RunningMeans(decays) if decays else None
    run = warm(run, steps)
    ahead = max(map(_ahead, candidates))
    problem, step = question(run, ahead)
    designer, theta = run.state.designer, run.state.functional.theta
    assert designer is not None
    phi = trees.detach(dict(designer.named_parameters()))
    with counting_peak(assembled.device) as own:
        step()
    next_alone = replace(problem, batches=problem.batches[:1])
    exact = Unrolled(1, engine="reverse")(next_alone, theta, phi)
    return [
        _row(
            c,
            problem if _ahead(c) > 1 else next_alone,
            theta,
            phi,
            exact,
            step,
            own.peak,
            repeats,
            assembled,
        )
        for c in candidates
    ]


def _ahead(candidate: Candidate) -> int:
    """How many steps the estimator looks ahead."""
    return int(candidate.options.get("lookahead_steps", 1))


def _means(candidate: Candidate) -> int:
    """How many running means of the learner's gradients the estimator takes."""
    try:
        return getattr(make_estimator(candidate.name, candidate.options), "running_means", 0)
    except UserError:  # its row says so
        return 0


def _row(
    candidate: Candidate,
    problem: ValueProblem,
    theta: Params,
    phi: Params,
    exact: ValueEstimate,
    step: Callable[[], None],
    own_peak: int,
    repeats: int,
    assembled: Assembled,
) -> Row:
    try:
        estimator = make_estimator(candidate.name, candidate.options)
        estimator(problem, theta, phi)  # the first looks at the functions, with copies
        with counting_peak(assembled.device) as peak:
            estimate = estimator(problem, theta, phi)
    except (UserError, NotConvergedError) as error:
        return Row(candidate.label, "", str(error))
    ratios = []
    for _ in range(repeats):
        plain = seconds_of(step, assembled.device)
        ratios.append(seconds_of(lambda: estimator(problem, theta, phi), assembled.device) / plain)
    notes = estimate.diagnostics
    cosine, realised = float(trees.cosine(estimate.grad, exact.grad)), float(exact.value)
    return Row(
        candidate.label,
        str(notes.get("engine", "")),
        "{}F {}B {}T".format(
            *(notes.get(kind, "?") for kind in ("forwards", "backwards", "tangents"))
        ),
        (statistics.median(ratios), min(ratios), max(ratios)),
        peak.peak / own_peak,
        None if math.isnan(cosine) else cosine,
        float(estimate.value) / realised if _ahead(candidate) == 1 and realised else None,
    )


def warm(run: ArmRun, steps: int) -> ArmRun:
    """The arm after ordinary steps of its learner, beside a designer at its initialisation.

    Args:
        run: an arm with a designer.
        steps: how many.
    """
    baseline = replace(run, arm=ARMS["baseline"], estimator=None)
    for _ in range(steps):
        for _ in range(run.options.accumulate):
            micro_batch(baseline)
        optimizer_step(baseline)
    return run


def question(run: ArmRun, ahead: int) -> tuple[ValueProblem, Callable[[], None]]:
    """The value problem of the next step, and the learner's own forward and backward on it.

    Args:
        run: an arm with a designer.
        ahead: steps that the problem has batches for.
    """
    workload, learner, at = run.workload, run.state.learner, run.state.counters
    further = replace(run, options=replace(run.options, look_ahead=ahead))
    batches = [workload.batch(at.micro_batch + k) for k in range(batches_ahead(further))]
    observed = tuple(workload.look_ahead(learner, batch) for batch in batches)
    problem = value_problem(run, observed, 0)
    problem = replace(problem, rule=replace(problem.rule, windows=windows_ahead(further)))

    return problem, plain_step(run)


def plain_step(run: ArmRun) -> Callable[[], None]:
    """The learner's own forward and backward on its next batch; it leaves no gradient."""
    workload, learner = run.workload, run.state.learner
    batch = workload.batch(run.state.counters.micro_batch)

    def step() -> None:
        forward = workload.forward(learner, batch, observe=False)
        task = workload.build_task(learner, "baseline", forward, None)
        workload.loss(learner, forward, task).backward()
        run.state.optimizer.zero_grad(set_to_none=True)

    return step


def seconds_of(function: Callable[[], Any], device: torch.device) -> float:
    """How long a call takes, the device's work included."""
    began = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - began
