"""Configurations as TOML: a flat list of options, named as on the command line with `_` for `-`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vfunc.config.known import Catalogue, Known
from vfunc.config.layers import Layer
from vfunc.config.values import nearest
from vfunc.errors import UserError
from vfunc.extras import needs

with needs("run", "tomli_w"):
    import tomli_w


BASE = "base"
"""The key by which a file names the one that it builds on."""


def read_toml(path: Path) -> Layer:
    """Read the options that a TOML file gives.

    Whether there are such options, with such values, is checked where layers are resolved. A file
    may name another one beside it, `base = "NAME"`, with `.toml` or without, whose
    options hold where it gives none.

    Raises:
        UserError: the file or its base cannot be read, is no TOML, or has tables; or it is its own
            base.
    """
    return Layer(_with_base(path, ()), str(path))


def _with_base(path: Path, above: tuple[Path, ...]) -> dict[str, Any]:
    """The options of a file and of those that it builds on."""
    if path in above:
        raise UserError(f"{above[0]}: base leads back to {path}")
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    for key, value in table.items():
        if isinstance(value, dict):
            raise UserError(f"{path}: [{key}] is a table; write options without any, at the top")
    base = table.pop(BASE, None)
    if base is None:
        return table
    if not isinstance(base, str) or Path(base).name != base:
        raise UserError(f"{path}: base must be the name of a file beside it, not {base!r}")
    name = base.removesuffix(".toml")
    below = path.parent / f"{name}.toml"
    if not below.exists():
        raise UserError(
            f"{path}: base = {base!r} names {below.name} beside it, which is not there; for a "
            f"preset give --preset {name}"
        )
    return _with_base(below, (*above, path)) | table


def read_preset(name: str, folder: Path) -> Layer:
    """Read a preset by its name: its path in the folder, without `.toml`.

    Raises:
        UserError: there is no such preset (those there are are listed), or it is malformed.
    """
    known = sorted(
        path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.toml")
    )
    if name not in known:
        there = ", ".join(known) or "none"
        raise UserError(f"unknown preset {name!r}{nearest(name, known)}; in {folder}: {there}")
    return read_toml(folder / f"{name}.toml")


def as_toml(options: Mapping[str, Any], catalogue: Catalogue) -> str:
    """Options as TOML, under the names of their groups.

    Args:
        options: values by name.
        catalogue: what the options are.
    """
    groups: dict[str, dict[str, Any]] = {}
    for name, known in catalogue.items():
        if name in options:
            groups.setdefault(known.group, {})[name] = _plain(known, options[name])
    return "\n".join(f"# {group}\n{tomli_w.dumps(table)}" for group, table in groups.items())


def _plain(known: Known, value: Any) -> Any:
    if known.said.parse is not None:
        return ",".join(value) if isinstance(value, tuple) else str(value)
    return list(value) if isinstance(value, tuple) else value
