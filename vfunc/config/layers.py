"""Options come in layers: each given in one place, the later winning over the earlier.

What is in a layer was given, whatever its value: so an option that does nothing in the chosen
combination is refused even if it repeats a default. Only where a later layer made it useless
(`--optimizer sgd` over a file's `betas`) does it give way, as overridden values do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
