"""Starts an arm: copies the learner, makes the designer and the estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from vfunc.arms import ARMS, Arm
from vfunc.config.build import built
from vfunc.estimators import Estimator, RandomDirection
from vfunc.simulate import check_step
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled, arm_plan, step_options
from vfunc.training.log import Log, Silent
from vfunc.training.options.run_config import RunConfig
from vfunc.training.state import RunningMeans, new_arm_state
from vfunc.workload import Workload


def start_arm(
    arm: Arm | str,
    assembled: Assembled,
    log: Log | None = None,
    *,
    workload: Workload | None = None,
    followed: Sequence[Mapping[str, Any]] = (),
) -> ArmRun:
    """One arm of a run, at the start checkpoint. Seeds torch's global random state.

    Args:
        arm: the arm or its name.
        assembled: what every arm of the run shares; none of it changes.
        log: receiver of its events, progress and checkpoints; None drops them.
        workload: a workload in place of the run's own.
        followed: what the arm that this one follows logged at each micro-batch (`Arm.follows`).

    Returns:
        The arm, with counters at zero.

    Raises:
        UserError: the learner's optimizer steps otherwise than estimates simulate.
    """
    config = assembled.config
    arm = ARMS[arm] if isinstance(arm, str) else arm
    workload = (workload or assembled.workload).of_arm(arm.name, followed)
    estimator = estimator_of(arm, config)
    torch.manual_seed(config.run.seed)
    state = new_arm_state(
        assembled.learner,
        config.estimator.align,
        config.optimizer,
        workload.new_designer() if arm.designed else None,
        None if config.designer.freeze_designer else config.designer.designer_lr,
        assembled.device,
        workload.processes if config.learner_in_shards and not workload.processes.alone else None,
    )
    if workload.processes.rank:  # dropout of its own, where the first goes on as one alone does
        torch.manual_seed(config.run.seed + 1_000_003 * workload.processes.rank)
    if state.designer_optimizer is not None:
        check_step(state.optimizer, state.functional.live)
        decays = config.estimator.decays_of(estimator)
        state.running = RunningMeans(decays) if decays else None
    return ArmRun(
        arm,
        state,
        workload,
        workload.estimated(state.functional, state.sharded) if arm.designed or arm.valued else None,
        estimator,
        step_options(config),
        arm_plan(config),
        log or Silent(),
    )


def estimator_of(arm: Arm, config: RunConfig) -> Estimator | None:
    """The estimator that trains the arm's designer, or None without a designer.

    Args:
        arm: the arm.
        config: configuration of the run; a random direction takes its engine option alone.
    """
    if not arm.designed:
        return None
    if arm.random:
        given = {k: v for k, v in config.options.items() if v is not None}
        return built(RandomDirection, given)
    return config.estimator.estimator
