"""Writes and reads checkpoints: all that an arm needs to resume, written atomically."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from vfunc.errors import UserError
from vfunc.training.state import ArmState, Counters


def save_checkpoint(state: ArmState, path: Path) -> None:
    """Write the arm's state; an interrupted write leaves the previous checkpoint whole.

    Args:
        state: the arm's state; random state of the CPU, and of the learner's GPU, is written too.
        path: the file; its folder is made.

    Raises:
        OSError: it cannot be written (a full disk).
    """
    device = next(state.learner.parameters()).device
    content = {
        "learner": state.learner.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "designer": None if state.designer is None else state.designer.state_dict(),
        "designer_optimizer": None
        if state.designer_optimizer is None
        else state.designer_optimizer.state_dict(),
        "counters": asdict(state.counters),
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }
    write_atomically(path, lambda temporary: torch.save(content, temporary))


def load_checkpoint(state: ArmState, path: Path) -> None:
    """Put a fresh arm where the checkpoint left it.

    Args:
        state: an arm built from the same configuration; changed in place.
        path: the file.

    Raises:
        UserError: the file does not fit the arm, or is damaged.
    """
    device = next(state.learner.parameters()).device
    try:
        content = torch.load(path, map_location=device, weights_only=True)
        state.learner.load_state_dict(content["learner"])
        state.optimizer.load_state_dict(content["optimizer"])
        if state.designer is not None:
            state.designer.load_state_dict(content["designer"])
        if state.designer_optimizer is not None:
            state.designer_optimizer.load_state_dict(content["designer_optimizer"])
        state.counters = Counters(**content["counters"])
    except (
        RuntimeError,
        KeyError,
        TypeError,
        ValueError,
        EOFError,
        OSError,  # a file that was cut off
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"the checkpoint {path} does not fit this run: {reason}") from error
    torch.set_rng_state(content["random"].cpu())
    if content["random_cuda"] is not None:
        torch.cuda.set_rng_state(content["random_cuda"].cpu(), device)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically, indented; floats that are not finite become null."""
    text = json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n"
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding="utf-8"))


def write_atomically(path: Path, write: Callable[[str], object]) -> None:
    """Write beside `path` and rename, so that the file is always whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with naming_file(path):
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        os.close(handle)
        try:
            write(temporary)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


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
