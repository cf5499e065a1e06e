"""A designer of views on disk: one safetensors file, its configuration in the header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vfunc.errors import UserError
from vfunc.vision.designers.view_designer import ViewDesigner, ViewDesignerConfig

FORMAT = "vfunc.ViewDesigner"
_LONGEST = 200  # characters of a reason


def save_view_designer(designer: ViewDesigner, path: Path | str) -> None:
    """Write parameters and configuration.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {name: x.detach().cpu().contiguous() for name, x in designer.state_dict().items()}
    # one entry: safetensors writes several in no fixed order, and equal designers differ in bytes
    header = {FORMAT: json.dumps(asdict(designer.config))}
    save_file(tensors, str(path), metadata=header)


def load_view_designer(path: Path | str) -> ViewDesigner:
    """Read a designer that `save_view_designer` wrote.

    Raises:
        UserError: the file is missing or holds something else, a designer of language for one.
    """
    if not Path(path).is_file():
        raise UserError(f"the designer {str(path)!r} does not exist; give a .safetensors file")
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            # copies: the file's own may be mapped, and change with it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"the designer {str(path)!r} cannot be read: {error}") from error
    if FORMAT not in header:
        other = next((name for name in header if name.startswith("vfunc.")), None)
        found = "" if other is None else f"; it holds a {other}"
        raise UserError(f"{str(path)!r} is not a saved designer of views{found}")
    try:
        config = ViewDesignerConfig(**json.loads(header[FORMAT]))
        with torch.device("meta"):  # draws no random numbers
            designer = ViewDesigner(config)
        designer.load_state_dict(tensors, assign=True)
    except (TypeError, ValueError, RuntimeError) as error:
        reason = _reason(error)
        raise UserError(f"the designer {str(path)!r} is damaged: {reason}") from error
    for name, x in tensors.items():
        if not x.isfinite().all():
            raise UserError(f"the designer {str(path)!r} is damaged: {name} is not finite")
    return designer


def _reason(error: Exception) -> str:
    """One line: torch's headline names no tensor, and what follows may name all of them."""
    line = " ".join(line.strip() for line in str(error).splitlines()[:2])
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
