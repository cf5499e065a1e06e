"""Options come in layers: each given in one place, the later winning over the earlier.

What is in a layer was given, whatever its value: so an option that does nothing in the chosen
combination is refused even if it repeats a default. Only where a later layer made it useless
(`--optimizer sgd` over a file's `betas`) does it give way, as overridden values do.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfunc.config.known import flag
from vfunc.errors import UserError

COMMAND_LINE = "the command line"


@dataclass(frozen=True)
class Layer:
    """Options given in one place.

    Attributes:
        given: values by option name.
        origin: where they come from, for messages: a file, or `COMMAND_LINE`.
    """

    given: Mapping[str, Any]
    origin: str = COMMAND_LINE


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """What is given in all, the later layers winning."""
    return {name: value for layer in layers for name, value in layer.given.items()}


def named(name: str, origin: str) -> str:
    """An option as its giver knows it: a flag, or a key of a file."""
    return flag(name) if origin == COMMAND_LINE else f"{origin}: {name}"


def without_useless(
    layers: Sequence[Layer], useless: Callable[[dict[str, Any]], Mapping[str, str]]
) -> dict[str, Any]:
    """What is given in all and does something.

    Args:
        layers: from the weakest to the strongest.
        useless: of given options those that do nothing, and why.

    Raises:
        UserError: an option does nothing in its own layer's company, or a weaker one's.
    """
    given = merged(layers)
    for name, reason in useless(given).items():
        depth = max(i for i, layer in enumerate(layers) if name in layer.given)
        if name in useless(merged(layers[: depth + 1])):
            where = named(name, layers[depth].origin)
            raise UserError(f"{where} does nothing here: {reason}")
        del given[name]
    return given


@contextlib.contextmanager
def origins_told(layers: Sequence[Layer]) -> Iterator[None]:
    """While options are held against each other: say of those that a file gave where they stand.

    A message names options by their flags, also those that nobody typed: a preset's.

    Args:
        layers: from the weakest to the strongest.

    Raises:
        UserError: what was refused, and which of the options in it a file gave.
    """
    try:
        yield
    except UserError as error:
        raise UserError(f"{error}{_placed(str(error), layers)}") from None


def _placed(message: str, layers: Sequence[Layer]) -> str:
    """Which options of a message were given by which files."""
    told: dict[str, list[str]] = {}
    for spelled in dict.fromkeys(re.findall(r"--[a-z][a-z0-9-]*", message)):
        name = spelled[2:].replace("-", "_")
        origins = [layer.origin for layer in layers if name in layer.given]
        if origins and origins[-1] != COMMAND_LINE:
            told.setdefault(origins[-1], []).append(spelled)
    said = (f"{' and '.join(flags)} from {origin}" for origin, flags in told.items())
    found = "; ".join(said)
    return f" ({found}; another value on the command line wins)" if found else ""
