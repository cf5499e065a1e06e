"""Puts an arm of a saved run where the run left it: its checkpoint, or its finished learner."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfunc.config.toml import read_toml
from vfunc.errors import UserError
from vfunc.report.measures import Measures
from vfunc.storage.manifest import require_as_written
from vfunc.storage.sealed import seal_holds
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled, assemble
from vfunc.training.build.configuration import COMMAND, resolve
from vfunc.training.checkpoint import load_checkpoint
from vfunc.training.files.identity import differences, files_only, plain
from vfunc.training.files.identity import told as in_a_line
from vfunc.training.files.inputs import digests_of
from vfunc.training.options.run_config import RunConfig
from vfunc.training.options.run_options import VISION
from vfunc.training.run_directory import RunDirectory
from vfunc.training.start import start_arm
from vfunc.training.state import Counters


@dataclass(frozen=True)
class FoundArm:
    """What a run has saved of an arm.

    Attributes:
        directory: the run.
        arm: the arm's name.
        config: the run's configuration, to be carried out on this machine.
        result: what the arm left at its end, where that is all; None where there is a checkpoint.
    """

    directory: RunDirectory
    arm: str
    config: RunConfig
    result: Mapping[str, Any] | None

    @property
    def told(self) -> dict[str, Any]:
        """The run's options, as plain data."""
        return {n: plain(v) for n, v in self.config.options.items() if n not in COMMAND}


@dataclass(frozen=True)
class SavedArm:
    """An arm where a run left it.

    Attributes:
        run: the arm.
        whole: whether its optimizer is as it was: of a finished arm without a checkpoint the
            moments are gone.
        told: the run's options, as plain data.
        loss_unit: unit of the loss, as in "nat"; empty where it has none.
    """

    run: ArmRun
    whole: bool
    told: Mapping[str, Any]
    loss_unit: str


def config_of(directory: RunDirectory, *, device: str, threads: int) -> RunConfig:
    """The configuration of a saved run, to be carried out on this machine.

    Args:
        directory: the run.
        device: `auto` takes a GPU if there is one.
        threads: CPU threads; 0 leaves the choice to torch.

    Raises:
        UserError: there is no run, or its configuration is damaged.
    """
    if not directory.config.is_file():
        raise UserError(
            f"--from {directory.path}: there is no run (a directory with a config.toml)"
        )
    require_as_written(directory.config)
    return resolve(read_toml(directory.config), {"device": device, "threads": threads})


def require_same_data(directory: RunDirectory, config: RunConfig) -> None:
    """Refuse files that are not those that the run has read.

    Raises:
        UserError: what differs.
    """
    manifest = directory.manifest()
    if manifest is None or not manifest.identity:
        return
    reads = {"options": {}, "inputs": digests_of(config)}
    if changes := differences(files_only(manifest.identity), reads):
        raise UserError(f"{directory.path} was run on other data ({in_a_line(changes)}); undo that")


def find_arm(directory: RunDirectory, arm: str, *, device: str, threads: int) -> FoundArm:
    """What a run has saved of an arm, looked at before anything is computed.

    Args:
        directory: the run, finished or not.
        arm: an arm with a designer.
        device: see `config_of`.
        threads: see `config_of`.

    Raises:
        UserError: there is no such run or arm, nothing of it is saved, or a file is not as it was
            written.
    """
    config = config_of(directory, device=device, threads=threads)
    if arm not in config.run.arms:
        had = ", ".join(config.run.arms)
        raise UserError(f"--arm {arm}: {directory.path} has no such arm; it has {had}")
    checkpoint = directory.checkpoint(arm)
    result = directory.finished(arm)
    if not checkpoint.exists():
        if result is None:
            raise UserError(
                f"{directory.path}: nothing of the arm {arm} is saved yet; go on with it by "
                "--resume"
            )
        if config.run.modality == VISION:
            raise UserError(
                f"{directory.path}: of a finished arm on pictures the encoder alone is kept, and "
                "its task has a head and a teacher; run it with --leave-checkpoints, or name an "
                "unfinished run"
            )
        for path in (directory.learner(arm), directory.designer(arm)):
            if not path.exists():
                raise UserError(
                    f"{path} is gone, which the run left of the arm {arm}; run it again"
                )
            require_as_written(path)
    elif not (seal_holds(checkpoint) or directory.is_adopted(checkpoint)):
        raise UserError(f"{checkpoint} is damaged, its digest differs; leave the run out")
    require_same_data(directory, config)
    return FoundArm(directory, arm, config, None if checkpoint.exists() else result)


def saved_arm(found: FoundArm) -> SavedArm:
    """An arm where its run left it.

    Args:
        found: what its run has saved of it.

    Raises:
        UserError: a checkpoint is not as it was written, or not of this arm.
    """
    directory, config = found.directory, found.config
    assembled = assemble(config)
    run = start_arm(found.arm, assembled)
    if found.result is None:
        checkpoint = directory.checkpoint(found.arm)
        load_checkpoint(run.state, checkpoint, unsealed=directory.is_adopted(checkpoint))
    else:
        _put_where_it_ended(run, assembled, directory, found.result)
    unit = Measures(assembled.reporting.unit, assembled.reporting.metrics).loss_unit
    return SavedArm(run, found.result is None, found.told, unit)


def _put_where_it_ended(
    run: ArmRun, assembled: Assembled, directory: RunDirectory, result: Mapping[str, Any]
) -> None:
    """Give a finished arm on text what it left: learner and designer, and how far it came."""
    # imported here: runs on pictures do without language's libraries
    from vfunc.language.loading import start_learner
    from vfunc.language.soft_targets.designer import load_designer

    name, config = run.arm.name, assembled.config
    learner, designer = directory.learner(name), directory.designer(name)
    adapted = config.options
    left = start_learner(
        str(learner), adapted["lora_rank"], adapted["lora_alpha"], adapted["lora_dropout"]
    )
    run.state.learner.load_state_dict(left.module.state_dict())
    assert run.state.designer is not None
    run.state.designer.load_state_dict(load_designer(Path(designer)).state_dict())
    steps, updates = result["steps"], result["designer_updates"]
    units, seconds = result[assembled.reporting.unit], result["seconds"]
    run.state.counters = Counters(
        step=steps,
        micro_batch=steps * run.options.accumulate,
        units=units,
        seconds=seconds,
        updates=updates,
        followed=(steps, units, seconds),
        probed=True,
    )
    for group in run.state.optimizer.param_groups:
        group["lr"] = run.plan.size(run.plan.spent(steps, units, seconds))
