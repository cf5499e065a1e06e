"""Measures one state of a run: what estimators predict of each task, and what doing it brings."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from torch import nn

from vfunc.arms import ARMS
from vfunc.errors import NotConvergedError, UserError
from vfunc.evaluation.peak_bytes import counting_peak
from vfunc.learner import RandomState
from vfunc.problem import ValueProblem, known_feedback
from vfunc.studies.bench import plain_step, seconds_of
from vfunc.studies.score.asking import at_no_share, offering, slopes, task_by_task
from vfunc.studies.score.doing import MEASURES, Workbench, workbench
from vfunc.studies.score.rows import Row
from vfunc.studies.score.sides import Candidate, side_of
from vfunc.studies.score.smoothness import smoothness
from vfunc.training.arm_run import ArmRun
from vfunc.training.options.run_config import RunConfig
from vfunc.training.provenance import git_commit
from vfunc.training.step import batches_ahead, feedback_at, value_problem, windows_ahead
from vfunc.trees import Params


@dataclass(frozen=True)
class Asked:
    """What is measured at every state.

    Attributes:
        tasks: how many tasks.
        horizons: learner steps after which effects are measured, increasing.
        task_by_task: the most learner steps of an estimate that is asked for each task's value.
        directions: tasks along which metasmoothness is measured.
        seed: of the tasks that are drawn.
    """

    tasks: int
    horizons: tuple[int, ...]
    task_by_task: int
    directions: int
    seed: int


def measure_state(
    run: ArmRun,
    config: RunConfig,
    designers: Sequence[nn.Module],
    rows: Sequence[Row],
    asked: Asked,
    told: Callable[[str], None] = lambda what: None,
    *,
    memory: bool = True,
) -> dict[str, Any]:
    """Everything that is measured at one state, as plain data.

    Args:
        run: the arm at the state, between two optimizer steps; it is not changed. Deflated values
            go by its running means.
        config: its configuration.
        designers: its designer at points of its training, the latest first.
        rows: the estimators.
        asked: what is measured.
        told: hears what is being done.
        memory: whether peak memory is counted, for one estimate more of each row.
    """
    bench = workbench(run, config)
    asking = _asking(run)
    problem, theta, offers, candidates = on_offer(
        asking,
        bench,
        designers,
        asked,
        max(row.ahead for row in rows),
        max(row.batches for row in rows),
    )
    predicted: dict[str, Any] = {}
    cost: dict[str, Any] = {}
    missing: dict[str, str] = {}
    step, side = plain_step(asking), side_of(run.workload)
    for row in rows if side.linear else map(_with_slope, rows):
        told(f"asking {row.label}")
        first = offers[: max(_batches(asking, row.ahead), row.batches)]
        own = offering(problem, first, side.made)
        own = replace(own, rule=_rule(asking, problem, row.ahead))
        try:
            predicted[row.label], cost[row.label] = _predictions(
                row, own, theta, asked.task_by_task, step, asking, memory=memory
            )
        except (UserError, NotConvergedError) as error:
            missing[row.label] = str(error)
    losses = []
    for k, task in enumerate([None, *candidates]):
        told(f"doing task {k} of {len(candidates)}")
        done = bench.losses(task, asked.horizons)
        losses.append(done.tolist())
    smooth = None
    if asked.directions:
        told("metasmoothness")
        every = max(1, len(candidates) // asked.directions)
        along = candidates[::every][: asked.directions]
        smooth = vars(smoothness(bench, along, asked.horizons))
    at = run.state.counters
    measured = {
        "git_commit": git_commit(),
        "step": at.step,
        "fraction": run.plan.spent(at.step, at.units, at.seconds),
        "eta": problem.rule.eta,
        "feedback": bench.feedback,
        "horizons": list(asked.horizons),
        # whose last step begins with the budget spent, at the schedule's last size
        "past_end": [h for h in asked.horizons if run.later_fraction(h - 1) == 1.0],
        "measures": list(MEASURES),
        "tasks": [{"kind": c.kind, "number": c.number, "share": c.share} for c in candidates],
        "losses": losses,  # (text and tasks, measures, horizons)
        "predicted": predicted,
        "missing": missing,
        "cost": cost,
        "smoothness": smooth,
    }
    return cast("dict[str, Any]", _without_nan(measured))


def _with_slope(row: Row) -> Row:
    """The row with the slope of a value that is its own slope where the loss is linear."""
    return replace(row, readings=("value", "slope")) if row.readings == ("value",) else row


def _without_nan(value: Any) -> Any:
    """Plain data with None where a number is not finite, as JSON has it."""
    if isinstance(value, Mapping):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _asking(run: ArmRun) -> ArmRun:
    """The run with what a value problem needs of an arm with a designer; its state is shared."""
    if run.state.designer is not None and run.estimated is not None:
        return run
    state = replace(run.state, designer=run.workload.new_designer())
    estimated = run.workload.estimated(run.state.functional)
    return replace(run, arm=ARMS["vpretraining"], state=state, estimated=estimated)


def on_offer(
    run: ArmRun,
    bench: Workbench,
    designers: Sequence[nn.Module],
    asked: Asked,
    ahead: int,
    batches: int = 1,
) -> tuple[ValueProblem, Params, list[Any], list[Candidate]]:
    """Draw the tasks, and put them on offer on the next batches.

    Args:
        run: the arm at the state; it is not changed.
        bench: tells which feedback is asked about.
        designers: see `measure_state`.
        asked: how many tasks, and their seed.
        ahead: learner steps for which there have to be batches.
        batches: how many there have to be at least.

    Returns:
        The question of the learner's next steps, where it is asked, what is on offer on each of
        the next batches, and the tasks.
    """
    run = _asking(run)
    workload, learner = run.workload, run.state.learner
    further = replace(run, options=replace(run.options, look_ahead=ahead))
    at, count = run.state.counters.micro_batch, max(_batches(run, ahead), batches)
    observed = [
        workload.look_ahead(learner, workload.batch(at + k), estimated=run.estimated)
        for k in range(count)
    ]
    dropout = None
    if run.options.train_mode:  # the masks of the forward that comes next
        dropout = RandomState.now(next(learner.parameters()).device)
    feedback = feedback_at(run, bench.feedback, dropout, run.options.feedback_bank)
    with _next_size(run):
        problem = value_problem(further, tuple(observed), feedback)
    theta = feedback.theta
    known = known_feedback(problem.feedback_loss, theta)
    problem = replace(problem, known=known)
    side = side_of(run.workload)
    candidates, offers = side.on_offer(run, problem, known, designers, asked.tasks, asked.seed)
    return problem, theta, list(offers), list(candidates)


@contextlib.contextmanager
def _next_size(run: ArmRun) -> Iterator[None]:
    """With the next step's size in the optimizer, where the last one's still stands."""
    at, groups = run.state.counters, run.state.optimizer.param_groups
    before = [group["lr"] for group in groups]
    size = run.plan.size(run.plan.spent(at.step, at.units, at.seconds))
    try:
        for group in groups:
            group["lr"] = size
        yield
    finally:
        for group, lr in zip(groups, before, strict=True):
            group["lr"] = lr


def _batches(run: ArmRun, ahead: int) -> int:
    """How many batches an estimate that looks so far ahead takes, as in training."""
    # whatever the run's own estimator wants
    return batches_ahead(
        replace(run, estimator=None, options=replace(run.options, look_ahead=ahead))
    )


def _rule(run: ArmRun, problem: ValueProblem, ahead: int) -> Any:
    further = replace(run, options=replace(run.options, look_ahead=ahead))
    return replace(problem.rule, windows=windows_ahead(further))


def _predictions(
    row: Row,
    problem: ValueProblem,
    theta: Params,
    most: int,
    step: Callable[[], None],
    run: ArmRun,
    *,
    memory: bool,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is read off the row's estimator, and what an estimate costs."""
    eta, device = problem.rule.eta, next(run.state.learner.parameters()).device
    estimator = row.estimator(eta)
    fresh = replace(problem, known=None)  # an estimate's own g_down counts
    if row.steps <= 4:
        at_no_share(estimator, fresh, theta)  # the first looks at the functions, with copies
    plain = statistics.median(seconds_of(step, device) for _ in range(3))
    estimates: list[Any] = []
    seconds = seconds_of(lambda: estimates.extend(at_no_share(estimator, fresh, theta)), device)
    peaks = None
    if memory:
        with counting_peak(device) as own:
            step()
        with counting_peak(device) as peak:
            at_no_share(estimator, fresh, theta)
        peaks = peak.peak / own.peak
    notes = estimates[0].diagnostics
    cost = {
        "seconds": seconds / plain,
        "memory": peaks,
        "passes": [notes.get(kind) for kind in ("forwards", "backwards", "tangents")],
        "engine": notes.get("engine", ""),
    }
    found: dict[str, Any] = {}
    if "slope" in row.readings:
        every = at_no_share(estimator, problem, theta, row.draws) if row.draws > 1 else estimates
        found["slope"] = slopes(every).tolist()
    if row.steps <= most and set(row.readings) != {"slope"}:
        values = task_by_task(row.estimator_of_values(eta), problem, theta)
        found |= {name: read.tolist() for name, read in values.items() if name in row.readings}
    return found, cost
