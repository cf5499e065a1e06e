"""A task designer on disk: one safetensors file, its configuration in the header."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.storage.digests import digest_of_json, digest_of_tensors
from vfunc.storage.manifest import require_as_written

with needs("run", "safetensors"):
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import save_file

_DIGEST = "sha256"
_LONGEST = 200  # characters of a reason

_Designer = TypeVar("_Designer", bound=nn.Module)


def save_designer(designer: nn.Module, path: Path | str) -> None:
    """Write parameters and configuration.

    Args:
        designer: the designer, whose configuration, a dataclass, is its `config`.
        path: the file.

    Raises:
        OSError: it cannot be written.
    """
    tensors = {name: x.detach().cpu().contiguous() for name, x in designer.state_dict().items()}
    config: Any = designer.config
    said = asdict(config)
    # one entry: safetensors writes several in no fixed order, and equal designers differ in bytes
    said |= {_DIGEST: _digest(said, tensors)}
    save_file(tensors, str(path), metadata={_format(type(designer)): json.dumps(said)})


def read_designer(
    path: Path | str,
    kind: type[_Designer],
    make: Callable[[dict[str, Any]], _Designer],
    called: str = "designer",
) -> _Designer:
    """Read a designer that `save_designer` wrote.

    Args:
        path: the file.
        kind: the class of the designer.
        make: from the configuration as plain data to a designer, on the meta device or with
            whatever numbers: the file's take their place.
        called: name of the kind of designer, for messages.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """
    if not Path(path).is_file():
        raise UserError(f"the designer {str(path)!r} does not exist; give a .safetensors file")
    require_as_written(Path(path))
    header, tensors = _read(path)
    if _format(kind) not in header:
        other = next((name for name in header if name.startswith("vfunc.")), None)
        found = "" if other is None else f"; it holds a {other}"
        raise UserError(f"{str(path)!r} is not a saved {called}{found}")
    try:
        said = json.loads(header[_format(kind)])
        digest = said.pop(_DIGEST, None)  # files of before have none
        if digest is not None and digest != _digest(said, tensors):
            raise ValueError("its digest differs")
        designer = make(said)
        empty = any(p.is_meta for p in designer.parameters())
        designer.load_state_dict(tensors, assign=empty)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        raise UserError(f"the designer {str(path)!r} is damaged: {_reason(error)}") from error
    for name, x in tensors.items():
        if not x.isfinite().all():
            raise UserError(f"the designer {str(path)!r} is damaged: {name} is not finite")
    return designer


def _digest(config: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """The digest of all that makes a designer."""
    return digest_of_json([json.loads(json.dumps(config)), digest_of_tensors(tensors)])


def _format(kind: type[nn.Module]) -> str:
    """The header's entry: it says which class of designer the file holds."""
    return f"vfunc.{kind.__name__}"


def _read(path: Path | str) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(str(path), "pt") as file:
            # copies: the file's own may be mapped, and change with it
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except SafetensorError as error:
        raise UserError(f"the designer {str(path)!r} cannot be read: {error}") from error


def _reason(error: Exception) -> str:
    """One line: torch's headline names no tensor, and what follows may name all of them."""
    line = " ".join(line.strip() for line in str(error).splitlines()[:2])
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"
