"""Reads the options that vary between runs: their values, and every combination of them."""

from __future__ import annotations

import contextlib
import itertools
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import get_origin

from vfunc.config.known import Catalogue, Known, flag
from vfunc.config.values import nearest
from vfunc.errors import UserError
from vfunc.training.build.configuration import COMMAND
from vfunc.training.run_command_line import PRESETS, options_there


@dataclass(frozen=True)
class Setting:
    """One value of each varied option: their names, in words, and as arguments of run."""

    varied: tuple[str, ...]
    label: str
    arguments: tuple[str, ...]


def settings_of(vary: Sequence[str], options: Catalogue | None = None) -> list[Setting]:
    """All combinations of the varied options' values; one that is empty if nothing varies.

    Args:
        vary: `OPTION=VALUE,VALUE`, each an option of run.py.
        options: those that there are; None takes a language run's.

    Raises:
        UserError: no such option, no values, or one that cannot be varied.
    """
    options = options_there([], PRESETS) if options is None else options
    axes: dict[str, list[Setting]] = {}
    for text in vary:
        spelled, equals, values = text.partition("=")
        name = spelled.strip().lstrip("-").replace("-", "_")
        tried = [value.strip() for value in values.split(",")]
        if not equals or not all(tried):
            raise UserError(f"--vary {text}: write OPTION=VALUE,VALUE, such as value=dot,cosine")
        if name not in options:
            raise UserError(
                f"--vary {text}: no such option{nearest(name, options)}; see --help of run"
            )
        if name in ("seed", "arms") or (name in COMMAND and name not in ("preset", "config")):
            instead = {"seed": "; give --seeds", "arms": "; --arms are compared in every run"}
            raise UserError(f"--vary {text}: {name} cannot vary{instead.get(name, '')}")
        if name in axes or len(set(tried)) < len(tried):
            raise UserError(f"--vary {text}: {name} is there twice, or one of its values")
        axes[name] = [
            Setting((name,), f"{name}={value}", _arguments(options[name], value)) for value in tried
        ]
    return [
        Setting(
            tuple(axes),
            ", ".join(one.label for one in way),
            tuple(argument for one in way for argument in one.arguments),
        )
        for way in itertools.product(*axes.values())
    ]


def tried_values(vary: Sequence[str]) -> dict[str, list[str]]:
    """The values to try by option, before it is known which options there are."""
    split = (text.partition("=") for text in vary)
    return {
        name.strip().lstrip("-").replace("-", "_"): [value.strip() for value in values.split(",")]
        for name, _, values in split
    }


def _arguments(option: Known, value: str) -> tuple[str, ...]:
    name, kind = option.name, option.kind
    if option.said.parse is not None:
        return (flag(name), value)
    if kind is bool:
        if value not in ("true", "false"):
            raise UserError(f"--vary {name}={value}: write true or false")
        return (flag(name if value == "true" else f"no_{name}"),)
    if get_origin(kind) is not tuple:
        return (flag(name), value)
    try:  # several files are several words; one whose name has a space is quoted, as in a shell
        return (flag(name), *shlex.split(value))
    except ValueError:
        raise UserError(f"--vary {name}={value}: a quote is not closed") from None


@contextlib.contextmanager
def naming(setting: str) -> Iterator[None]:
    """Say in which setting something is wrong."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{setting}: {error}" if setting else str(error)) from error
