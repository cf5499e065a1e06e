"""The designer's side of a trainer's checkpoint: designer, its optimizer, what is held."""

from __future__ import annotations

import warnings
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch

from vfunc.errors import UserError
from vfunc.integrations.value_options import ValueOptions
from vfunc.storage.sealed import seal_holds, write_sealed
from vfunc.training.arm_run import ArmRun
from vfunc.training.checkpoint import write_atomically
from vfunc.training.files.sound_state import checked_counters
from vfunc.training.state import HeldFeedback, HeldMean, RunningMeans

STATE = "value_state.pt"
DESIGNER = "designer.safetensors"


def save_value_state(run: ArmRun, value: ValueOptions, folder: Path) -> None:
    """Write what resuming needs beside the trainer's own files: the learner is among those.

    Args:
        run: the arm.
        value: its options, told where it is resumed with others.
        folder: the checkpoint.

    Raises:
        OSError: it cannot be written.
    """
    state = run.state
    assert state.designer is not None
    optimizer = state.designer_optimizer
    content = {
        "options": _told(run, value),
        "designer": state.designer.state_dict(),
        "designer_optimizer": None if optimizer is None else optimizer.state_dict(),
        "counters": asdict(state.counters),
        "running": None if state.running is None else vars(state.running),
        "held_feedback": None if state.held is None else vars(state.held),
        "held_mean": None if state.held_mean is None else vars(state.held_mean),
    }
    path = folder / STATE
    write_atomically(
        path, lambda name: write_sealed(Path(name), lambda own: torch.save(content, own))
    )


def load_value_state(run: ArmRun, value: ValueOptions, folder: Path) -> None:
    """Put the designer's side where a checkpoint left it.

    Warns of options that are not those of the checkpoint, as the trainer does of its own.

    Args:
        run: an arm built from the same options; its state is changed in place.
        value: the options.
        folder: the checkpoint.

    Raises:
        UserError: the checkpoint has no such state, is damaged, or does not fit.
    """
    state = run.state
    assert state.designer is not None
    path = folder / STATE
    if not path.is_file():
        raise UserError(
            f"the checkpoint {folder} has no {STATE}: it was written by another trainer, or with "
            "save_only_model; load its model, and begin anew"
        )
    if seal_holds(path) is not True:
        raise UserError(f"{path} is damaged, its digest differs: resume from another checkpoint")
    device = next(state.designer.parameters()).device
    content: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    optimizer = state.designer_optimizer
    try:
        if (content["designer_optimizer"] is None) != (optimizer is None):
            raise UserError("its designer is trained in one of the two alone")
        state.designer.load_state_dict(content["designer"])
        if optimizer is not None:
            optimizer.load_state_dict(content["designer_optimizer"])
        running, held, mean = (content[n] for n in ("running", "held_feedback", "held_mean"))
        if (running is None) != (state.running is None):
            raise UserError("its estimator takes other running means")
        state.running = None if running is None else RunningMeans(**running)
        state.held = None if held is None else HeldFeedback(**held)
        state.held_mean = None if mean is None else HeldMean(**mean)
        state.counters = checked_counters(content["counters"])
    except (RuntimeError, KeyError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} does not fit this training: {reason}") from error
    now, then = _told(run, value), content.get("options", {})
    other = [f"{name} {then[name]} is {x} now" for name, x in now.items() if then.get(name, x) != x]
    if other:
        warnings.warn(
            f"resumed with other options than the checkpoint's: {'; '.join(other)}", stacklevel=2
        )


def _told(run: ArmRun, value: ValueOptions) -> dict[str, str]:
    """The options, and those of the trainer that estimates take, in words for a checkpoint."""
    own = {field.name: repr(getattr(value, field.name)) for field in fields(value)}
    loop = {name: repr(getattr(run.options, name)) for name in ("accumulate", "clip", "seed")}
    return own | loop
