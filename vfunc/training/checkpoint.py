"""Writes and reads checkpoints: all that an arm needs to resume, written whole and sealed."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from vfunc.errors import UserError
from vfunc.sharding import gathered, put_back, put_back_optimizer
from vfunc.storage.sealed import seal_holds, write_sealed
from vfunc.training.files.sound_state import checked_counters, require_sound
from vfunc.training.state import (
    ArmState,
    Counters,
    DirectState,
    HeldFeedback,
    HeldMean,
    RunningMeans,
)


def random_state(state: ArmState) -> dict[str, Tensor | None]:
    """Torch's random state in this process: of the CPU, and of the learner's GPU."""
    device = next(state.learner.parameters()).device
    cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return {"random": torch.get_rng_state(), "random_cuda": cuda}


def save_checkpoint(
    state: ArmState,
    path: Path,
    made_of: Mapping[str, Any] | None = None,
    others: Sequence[Mapping[str, Tensor | None]] = (),
) -> None:
    """Write the arm's state and its seal; the checkpoint before it is kept beside it.

    An interrupted write leaves both of the earlier ones whole.

    Args:
        state: the arm's state; this process's random state is written too. Shards are gathered:
            the other processes have to call `help_to_save`.
        path: the file; its folder is made.
        made_of: plain data to keep with it: what the run is, and how far its log was.
        others: random states of the other processes.

    Raises:
        OSError: it cannot be written (a full disk).
    """
    content = {
        **_of_learner(state),
        "designer": None if state.designer is None else state.designer.state_dict(),
        "designer_optimizer": None
        if state.designer_optimizer is None
        else state.designer_optimizer.state_dict(),
        "counters": asdict(state.counters),
        "running": None if state.running is None else vars(state.running),
        **random_state(state),
        **({} if state.held is None else {"held_feedback": vars(state.held)}),
        **({} if state.held_mean is None else {"held_mean": vars(state.held_mean)}),
        **({} if state.direct is None else {"direct": vars(state.direct)}),
        "random_of_others": [dict(one) for one in others],
        "made_of": dict(made_of or {}),
    }

    def write(temporary: str) -> None:
        write_sealed(Path(temporary), lambda name: torch.save(content, name))
        to_disk(Path(temporary))
        if path.exists():
            os.replace(path, previous(path))

    write_atomically(path, write)


def help_to_save(state: ArmState) -> None:
    """Take part in the gathering of shards, in a process that writes no checkpoint."""
    _of_learner(state, kept=False)


def _of_learner(state: ArmState, *, kept: bool = True) -> dict[str, Any]:
    """The learner and its optimizer, whole."""
    held = {"learner": state.learner.state_dict(), "optimizer": state.optimizer.state_dict()}
    return held if state.sharded is None else gathered(held, kept=kept)


def previous(path: Path) -> Path:
    """Where the checkpoint before the newest is."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def load_checkpoint(
    state: ArmState, path: Path, *, unsealed: bool = False, rank: int = 0
) -> dict[str, Any]:
    """Put a fresh arm where the checkpoint left it.

    Args:
        state: an arm built from the same configuration; changed in place, if all is well.
        path: the file.
        unsealed: whether a file without a seal is taken: one of before there were seals.
        rank: number of this process, whose random state is taken.

    Returns:
        What `save_checkpoint` was given to keep.

    Raises:
        UserError: the file does not fit the arm, or is damaged.
    """
    device = next(state.learner.parameters()).device
    try:
        holds = seal_holds(path)
        if holds is False or (holds is None and not unsealed):
            raise UserError("it is damaged, its digest differs")
        place = device if state.sharded is None else "cpu"  # whole, it may fit no device
        content = torch.load(path, map_location=place, weights_only=True)
        counters = checked_counters(content["counters"])
        require_sound(content, state)
        live = [p for group in state.optimizer.param_groups for p in group["params"]]
        state.learner.load_state_dict(put_back(content["learner"], state.learner.state_dict()))
        state.optimizer.load_state_dict(put_back_optimizer(content["optimizer"], live))
        if state.designer is not None:
            state.designer.load_state_dict(content["designer"])
        if state.designer_optimizer is not None:
            state.designer_optimizer.load_state_dict(content["designer_optimizer"])
        running = content.get("running")
        state.running = None if running is None else RunningMeans(**running)
        drawn = content if rank == 0 else content["random_of_others"][rank - 1]
        torch.set_rng_state(drawn["random"].cpu())
        if drawn["random_cuda"] is not None and device.type == "cuda":
            torch.cuda.set_rng_state(drawn["random_cuda"].cpu(), device)
        held = content.get("held_feedback")
        state.held = None if held is None else HeldFeedback(**held)
        mean = content.get("held_mean")
        state.held_mean = None if mean is None else HeldMean(**mean)
        direct = content.get("direct")
        state.direct = None if direct is None else DirectState(**direct)
        state.counters = counters
        return content.get("made_of", {})
    except (
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,  # a UserError is one
        AttributeError,
        IndexError,
        EOFError,
        OSError,  # a file that was cut off
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the checkpoint {path} does not fit this run: {reason}") from error


def peek(path: Path) -> tuple[Counters, dict[str, Any]] | None:
    """A checkpoint's counters and what was kept with it, without its tensors and unchecked.

    None where they cannot be had; the one before the newest is asked then.
    """
    for candidate in (path, previous(path)):
        with contextlib.suppress(Exception):  # whatever damage: reading it for good tells
            content = torch.load(candidate, map_location="cpu", weights_only=True, mmap=True)
            return checked_counters(content["counters"]), dict(content.get("made_of", {}))
    return None


def load_newest(
    state: ArmState, path: Path, *, unsealed: bool = False, rank: int = 0
) -> tuple[dict[str, Any] | None, str]:
    """Put a fresh arm where its newest checkpoint left it that is sound.

    Args:
        state: as in `load_checkpoint`.
        path: the newest; the one before stands beside it. One that is damaged is removed.
        unsealed: as in `load_checkpoint`.
        rank: as in `load_checkpoint`; of several processes the first looks first, and mends.

    Returns:
        What was kept with it, None where there is no checkpoint; and a warning, or "".

    Raises:
        UserError: neither is sound.
    """
    before = previous(path)
    if not path.exists():
        if not before.exists():
            return None, ""
        os.replace(before, path)  # the process died between two renames
    try:
        return load_checkpoint(state, path, unsealed=unsealed, rank=rank), ""
    except UserError as error:
        if not before.exists():
            raise
        damaged = error
    try:
        kept = load_checkpoint(state, before, unsealed=unsealed, rank=rank)
    except UserError:
        raise damaged from None
    os.replace(before, path)
    return kept, f"{damaged}; going on from the one before, of step {state.counters.step}"


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented; floats that are not finite become null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Write beside `path`, have it on the disk, and rename, so that the file is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_file(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            write(temporary)
            to_disk(Path(temporary))
            os.replace(temporary, path)
            to_disk(path.parent)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def to_disk(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk: a power cut must not undo it."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():  # Windows opens no folders
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # what the file system cannot do
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming_file(path: Path) -> Iterator[None]:
    """Make every failure to write `path` an OSError that names it.

    Where a disk is full, `torch.save` raises RuntimeError and safetensors an error of its own.

    Raises:
        OSError: it cannot be written.
    """
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from error
    except (RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise OSError(
            errno.EIO, f"cannot be written, is the disk full? ({reason})", str(path)
        ) from error


def _finite(content: Any) -> Any:
    if isinstance(content, float):
        return content if content == content and abs(content) != float("inf") else None
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return content
