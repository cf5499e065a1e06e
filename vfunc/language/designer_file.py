"""A designer on disk: one safetensors file, its configuration in the header."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from vfunc.errors import UserError
from vfunc.language.designer import DesignerConfig, TopKDesigner
from vfunc.language.targets import TargetForm

FORMAT = "vfunc.TopKDesigner"


def save_designer(designer: TopKDesigner, path: Path | str) -> None:
    """Write parameters and configuration.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {name: x.detach().cpu().contiguous() for name, x in designer.state_dict().items()}
    # one entry: safetensors writes several in no fixed order, and equal designers differ in bytes
    header = {FORMAT: json.dumps(asdict(designer.config))}
    save_file(tensors, str(path), metadata=header)


def load_designer(path: Path | str) -> TopKDesigner:
    """Read a designer that `save_designer` wrote.

    Raises:
        UserError: the file is missing or holds something else.
    """
    if not Path(path).is_file():
        raise UserError(f"the designer {str(path)!r} does not exist; give a .safetensors file")
    try:
        with safe_open(str(path), "pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise UserError(f"the designer {str(path)!r} cannot be read: {error}") from error
    if FORMAT not in header:
        raise UserError(f"{str(path)!r} is not a saved designer")
    config = json.loads(header[FORMAT])
    designer = TopKDesigner(DesignerConfig(**config | {"target": TargetForm(**config["target"])}))
    try:
        designer.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the designer {str(path)!r} is damaged: {reason}") from error
    return designer
