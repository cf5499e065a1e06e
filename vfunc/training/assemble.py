"""Assembles the parts of a run from its configuration: learner, modality, plans."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import nn

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.learner import functional, select
from vfunc.modality import Modality, Reporting, Saving
from vfunc.processes import ALONE, Processes, local_device
from vfunc.sharding import ShardedLearner, require_spreadable
from vfunc.training.arm_run import StepOptions
from vfunc.training.budget import ArmPlan, Schedule
from vfunc.training.direct.requirements import require_trl
from vfunc.training.options.run_config import RunConfig
from vfunc.workload import Workload


@dataclass(frozen=True)
class Assembled:
    """What every arm of a run shares.

    Attributes:
        config: the resolved configuration.
        learner: the start learner, on the CPU; arms train copies of it on the device.
        modality: the modality, on the run's own data.
        device: the device of the run.
    """

    config: RunConfig
    learner: nn.Module
    modality: Modality
    device: torch.device

    @property
    def workload(self) -> Workload:
        """The loop's side of the modality."""
        return self.modality.workload

    @property
    def reporting(self) -> Reporting:
        """The report's side of the modality."""
        return self.modality.reporting

    @property
    def saving(self) -> Saving:
        """How the modality's modules are written."""
        return self.modality.saving


def assemble(config: RunConfig, processes: Processes = ALONE) -> Assembled:
    """Load and check everything that a run needs, before anything is written.

    Args:
        config: a resolved configuration.
        processes: the processes that train together, of which each assembles its own.

    Returns:
        What was assembled.

    Raises:
        UserError: something is missing or does not fit together.
    """
    if config.run.threads:
        torch.set_num_threads(config.run.threads)
    device = pick_device(config.learner.device, processes)
    require_trl(config.run.arms, device, processes)
    torch.manual_seed(config.run.seed)

    def check(module: nn.Module) -> None:
        select(module, config.estimator.align)
        if config.learner_in_shards:
            require_spreadable(module, config.estimator.align)
        if config.estimator.estimate_mode == "train" and not _has_dropout(module):
            raise UserError("--estimate-mode train does nothing here: the learner has no dropout")

    if config.learner_in_shards and processes.alone:
        raise UserError(
            "--shard-learner spreads the learner over several processes, and there is one: start "
            "the run by torchrun --nproc-per-node N, or leave it out"
        )
    learner, modality = config.assembled(device, check)
    bank = config.estimator.feedback_bank
    if bank is not None and bank < processes.size:
        raise UserError(
            f"--feedback-bank {bank} is below the {processes.size} processes that share it"
        )
    if not processes.alone:
        modality = replace(modality, workload=modality.workload.among(processes))
    if config.learner_in_shards:
        _require_cut(config, learner, modality.workload)
    return Assembled(config, learner, modality, device)


def _require_cut(config: RunConfig, learner: nn.Module, workload: Workload) -> None:
    """Refuse a learner in shards that estimates need whole: before, not after, other arms train."""
    if any(ARMS[name].designed or ARMS[name].valued for name in config.run.arms):
        start = functional(learner, config.estimator.align)
        workload.estimated(start, ShardedLearner(learner, start, start))


def pick_device(name: str, processes: Processes = ALONE) -> torch.device:
    """The device that an option names; `auto` takes a GPU if there is one.

    Args:
        name: the option's value.
        processes: with several, each takes a GPU of its own.

    Raises:
        UserError: no such device.
    """
    if not processes.alone and name != "cpu" and torch.cuda.is_available():
        if name not in ("auto", "cuda"):
            raise UserError(f"--device {name}: each process takes its own GPU; give cuda or cpu")
        return local_device()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name!r} is none; give auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name!r} is not supported; give auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name!r}: this machine has {torch.cuda.device_count()} CUDA devices"
        )
    return device


def step_options(config: RunConfig) -> StepOptions:
    """How a step is taken, as configured."""
    return StepOptions(
        accumulate=config.optimizer.accumulate,
        clip=config.optimizer.clip,
        meta_period=config.estimator.meta_period,
        burn_in=config.estimator.burn_in,
        look_ahead=_look_ahead(config),
        penalties=config.penalties,
        penalties_in_values=config.penalties_in_values,
        feedback_bank=config.estimator.feedback_bank,
        feedback_every=config.estimator.feedback_every or 1,
        designer_warmup=config.designer.designer_warmup or 0,
        designer_steps=config.estimator.designer_steps or 1,
        designer_lr=config.designer.designer_lr,
        designer_final_lr=config.designer.designer_final_lr,
        mean_bank=config.estimator.mean_bank,
        train_mode=config.estimator.estimate_mode == "train",
        seed=config.run.seed,
    )


def _has_dropout(module: nn.Module) -> bool:
    return any(
        (isinstance(child, nn.Dropout) and child.p > 0) or getattr(child, "attention_dropout", 0)
        for child in module.modules()
    )


def _look_ahead(config: RunConfig) -> int:
    """Learner steps that the estimator looks ahead: its `lookahead_steps`, where it has any."""
    if not any(ARMS[name].designed and not ARMS[name].random for name in config.run.arms):
        return 1
    return getattr(config.estimator.estimator, "lookahead_steps", 1)


def arm_plan(config: RunConfig) -> ArmPlan:
    """What bounds and follows an arm, as configured."""
    return ArmPlan(
        budget=config.run.budget,
        lr=config.optimizer.lr,
        schedule=Schedule(
            config.optimizer.warmup,
            config.optimizer.final_lr,
            shape=config.optimizer.schedule,
            decay=config.optimizer.decay,
        ),
        eval_every=config.run.eval_every,
        save_every=config.run.save_every,
        probe_batches=config.run.probe_batches,
    )
