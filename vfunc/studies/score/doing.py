"""Does tasks: live learner steps on a copy of a run's state, from the same draws each time."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from vfunc import trees
from vfunc.arms import ARMS
from vfunc.errors import NonFiniteError, UserError
from vfunc.learner import RandomState
from vfunc.studies.score.rank_agreement import Array
from vfunc.studies.score.sides import Candidate, side_of
from vfunc.training.arm_run import ArmRun
from vfunc.training.loop import one_step
from vfunc.training.options.run_config import RunConfig
from vfunc.training.state import new_arm_state
from vfunc.training.step import feedback_at
from vfunc.trees import Params
from vfunc.workload import Workload

MEASURES: tuple[str, ...] = ("used", "other", "test")
"""L_down on the feedback that estimators see, on as much other feedback, and the held-out loss."""
SILENT_BATCHES = 8
"""Pairs of feedback batches that are looked at before the feedback is said to say nothing."""


@dataclass(frozen=True)
class Workbench:
    """A copy of a run's state, brought back to it before each task that is done.

    The next steps are the run's own: its stream's next batches, its optimizer, schedule, clipping
    and dropout, with the state of the random generators as it was when this was made.

    Attributes:
        run: the run whose state it is; never changed.
        work: the copy, which is changed.
        draws: the generators' state that every task begins with.
        feedback: index of the feedback batch, or bank, that estimators are asked about.
        measures: each loss of the copy as it stands.
    """

    run: ArmRun
    work: ArmRun
    draws: RandomState
    feedback: int
    measures: Mapping[str, Callable[[], float]]

    def losses(
        self,
        task: Candidate | None,
        horizons: Sequence[int],
        seen: Callable[[int, Params], None] = lambda steps, parameters: None,
    ) -> Array:
        """Do a task, and measure.

        Args:
            task: what is done; None is the text as it is, the baseline's own code.
            horizons: after how many learner steps to measure, increasing.
            seen: called at each with the number of steps and the live parameters.

        Returns:
            (measures, horizons) losses; NaN from where training is no longer finite.
        """
        found = np.full((len(MEASURES), len(horizons)), np.nan)
        device = next(self.work.state.learner.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            self.reset()
            run = self._doing(task)
            try:
                for k in range(1, max(horizons) + 1):
                    one_step(run)
                    if k in horizons:
                        at = list(horizons).index(k)
                        found[:, at] = [self.measures[name]() for name in MEASURES]
                        seen(k, dict(run.state.learner.named_parameters()))
            except NonFiniteError:
                pass  # such a task has no effect to be compared with, and is told of
        found[~np.isfinite(found)] = np.nan
        return found

    def reset(self) -> None:
        """Bring the copy, and the generators, back to the run's state."""
        given, state = self.run.state, self.work.state
        with torch.no_grad():
            for own, other in (
                (state.learner.named_parameters(), given.learner.named_parameters()),
                (state.learner.named_buffers(), given.learner.named_buffers()),
            ):
                held = dict(other)
                for name, x in own:
                    x.copy_(held[name])
        state.optimizer.load_state_dict(copy.deepcopy(given.optimizer.state_dict()))
        state.optimizer.zero_grad(set_to_none=True)
        state.counters = given.counters
        state.learner.train()
        self.draws.restore(next(state.learner.parameters()).device)

    def _doing(self, task: Candidate | None) -> ArmRun:
        self.work.state.designer = None
        return replace(self.work, arm=ARMS["baseline"]) if task is None else task.doing(self.work)


def workbench(run: ArmRun, config: RunConfig) -> Workbench:
    """A workbench at a run's state, between two optimizer steps.

    Args:
        run: any arm; it is not changed.
        config: its configuration.

    Raises:
        UserError: no feedback batch says anything, such as rewards that do not differ.
    """
    device = next(run.state.learner.parameters()).device
    draws = RandomState.now(device)
    state = new_arm_state(
        run.state.learner, config.estimator.align, config.optimizer, None, None, device
    )
    state.counters = run.state.counters
    workload, options = run.workload, replace(run.options, burn_in=0)
    estimated = workload.estimated(state.functional)
    work = replace(run, state=state, estimated=estimated, estimator=None, options=options)
    index, used, other = _halves(work)

    def test() -> float:
        loss = workload.evaluate(state.learner, final=False).metrics["loss"]
        assert loss is not None
        return loss

    halves = (lambda: used), (lambda: other)
    if side_of(workload).refits:
        halves = (partial(_downstream, work, k) for k in (index, index + 1))
    of_halves = (_loss_of(work, half) for half in halves)
    measures: dict[str, Callable[[], float]] = dict(zip(MEASURES, (*of_halves, test), strict=True))
    draws.restore(device)
    bench = Workbench(run, work, draws, index, measures)
    bench.reset()
    return bench


def _halves(work: ArmRun) -> tuple[int, Any, Any]:
    """L_down on the next feedback that says something, its index, and that on as much other."""
    for index in itertools.islice(_apart(work), SILENT_BATCHES):
        used, other = (_downstream(work, k) for k in (index, index + 1))
        if not used.constant and not other.constant:
            return index, used, other
    raise UserError(
        f"{SILENT_BATCHES} feedback batches in a row say nothing (rewards that do not differ); "
        "give --reward-samples or --feedback-batch-size a larger value"
    )


def _downstream(work: ArmRun, index: int) -> Any:
    """L_down on a feedback batch, or bank, with what has to be fitted to the copy as it stands."""
    return feedback_at(work, index, None, work.options.feedback_bank).downstream


def _apart(work: ArmRun) -> Iterator[int]:
    """Indices of feedback batches (banks), from the next on, that share nothing with the one after.

    Both have to be of one epoch, each a permutation of its own.
    """
    there, size = require_halves(work.workload, work.options.feedback_bank)
    for index in itertools.count(work.state.counters.updates):
        if index * size // there == ((index + 2) * size - 1) // there:
            yield index


def require_halves(workload: Workload, bank: int | None) -> tuple[int, int]:
    """Check that there is as much other feedback.

    Args:
        workload: the run's.
        bank: examples of a bank, or None for a batch.

    Returns:
        How many feedback examples there are, and how many are used at once.

    Raises:
        UserError: there are not two such parts.
    """
    there, of_a_batch = side_of(workload).feedback_there(workload)
    size = bank or of_a_batch
    if 2 * size > there:
        name = "--feedback-bank" if bank else "--feedback-batch-size"
        raise UserError(
            f"{there} feedback examples are no two times {size}, and effects are measured on other "
            f"feedback too; give a smaller {name}"
        )
    return there, size


def _loss_of(work: ArmRun, downstream: Callable[[], Any]) -> Callable[[], float]:
    def loss() -> float:
        learner = work.state.learner
        was = learner.training
        learner.eval()  # estimates measure it without dropout
        try:
            measured = downstream()
            with torch.no_grad():
                return float(measured.loss(trees.detach(work.state.functional.theta)))
        finally:
            learner.train(was)

    return loss
