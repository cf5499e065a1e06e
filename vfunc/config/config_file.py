"""Configurations as TOML: a flat list of options, named as on the command line with `_` for `-`."""

from __future__ import annotations

import dataclasses
import tomllib
from pathlib import Path
from typing import Any

from vfunc.config.config import COMMAND, FIELDS, GROUPS, RunConfig
from vfunc.config.resolve import Layer, flag, given_options
from vfunc.config.values import nearest
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.training.budget import Budget

with needs("run", "tomli_w"):
    import tomli_w

CONFIG_NAME = "config.toml"


def load_toml(path: Path) -> Layer:
    """Read the options that a TOML file gives.

    Types and bounds are checked where layers are resolved.

    Raises:
        UserError: the file cannot be read, is no TOML, or has a key that is no option of a run.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such configuration file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path} is not TOML: {error}") from error
    for key, value in table.items():
        if key in COMMAND:
            raise UserError(f"{path}: {key} is not part of a configuration; give {flag(key)}")
        if isinstance(value, dict):
            raise UserError(f"{path}: [{key}] is a table; write options without any, at the top")
        if key not in FIELDS:
            known = [name for name in FIELDS if name not in COMMAND]
            raise UserError(f"{path}: no such option {key!r}{nearest(key, known)}")
    return Layer(table, str(path))


def load_preset(name: str, folder: Path) -> Layer:
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
    return load_toml(folder / f"{name}.toml")


def to_toml(config: RunConfig) -> str:
    """A configuration as TOML that gives it again.

    The command's own options (`--name`, `--overwrite`, ...) are left out, and so are options that
    do nothing in this configuration, which a file may not give.
    """
    options = {k: v for k, v in given_options(config).items() if k not in COMMAND}
    parts = []
    for group, made in GROUPS.items():
        names = [f.name for f in dataclasses.fields(made) if f.name in options]
        if names:
            written = tomli_w.dumps({name: _plain(name, options[name]) for name in names})
            parts.append(f"# {group}\n{written}")
    return "\n".join(parts)


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Budget):
        return str(value)
    if isinstance(value, tuple):
        return ",".join(value) if name == "arms" else list(value)
    return value
