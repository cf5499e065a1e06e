"""From the options that were given to a complete configuration.

Options come in layers (preset, file, command line), each a flat mapping of names to values, the
later winning. What is in a mapping was given, whatever its value: so an option that does nothing
in the chosen combination is refused even if it repeats a default. Only where a later layer made it
useless (`--optimizer sgd` over a file's `betas`) does it give way, as overridden values do.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfunc.config.applicability import useless_options
from vfunc.config.config import GROUPS, RunConfig
from vfunc.config.defaults import with_defaults
from vfunc.config.method_options import ESTIMATOR_OPTIONS
from vfunc.config.run_options import VISION
from vfunc.config.values import check_bounds, check_combination, typed_value
from vfunc.config.vision_rules import PUBLIC
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


def resolve(*layers: Layer | Mapping[str, Any]) -> RunConfig:
    """The complete configuration of these options.

    Resolving what `given_options` says of a configuration gives the same configuration again.

    Args:
        *layers: what was given, from the weakest layer to the strongest; a bare mapping counts
            as the command line.

    Raises:
        UserError: an unknown option, a value of the wrong type or out of bounds, an option that
            does nothing in the combination, or options that contradict each other.
    """
    checked = [_checked(layer if isinstance(layer, Layer) else Layer(layer)) for layer in layers]
    given = _merged(checked)
    for name, reason in useless_options(given, with_defaults(given)).items():
        depth = max(i for i, layer in enumerate(checked) if name in layer.given)
        upto = _merged(checked[: depth + 1])
        if name in useless_options(upto, with_defaults(upto)):
            raise UserError(f"{named(name, checked[depth].origin)} does nothing here: {reason}")
        del given[name]
    options = with_defaults(given)
    check_combination(given, options)
    return RunConfig(
        **{
            group: made(**{f.name: options[f.name] for f in dataclasses.fields(made)})
            for group, made in GROUPS.items()
        }
    )


def given_options(config: RunConfig) -> dict[str, Any]:
    """The options that repeat a configuration: all that are set and do something."""
    options = config.flat()
    present = {name: value for name, value in options.items() if value is not None}
    useless = useless_options(present, options)
    return {name: value for name, value in present.items() if name not in useless}


def estimator_options(config: RunConfig) -> dict[str, Any]:
    """The estimator's own options that were given, by name; the registry refuses foreign ones."""
    options = {name: getattr(config.estimator, name) for name in ESTIMATOR_OPTIONS}
    return {name: value for name, value in options.items() if value is not None}


def default_name(config: RunConfig) -> str:
    """A name for a run that was given none: its data, what is learned, estimator and seed."""
    estimator = config.estimator.estimator.rsplit(":", 1)[-1]
    if config.run.modality == VISION:
        source = (config.data.feedback or ("scenes",))[0]
        public = PUBLIC.fullmatch(source)
        learned = f"{public.group(1) if public else _stem(source)}-{config.views.objective}"
    else:
        learned = _stem(config.data.problem or (config.data.stream or ("",))[0])
    return f"{learned}-{estimator}-seed{config.run.seed}"


def _stem(source: str) -> str:
    return source.rstrip("/").rsplit("/", 1)[-1].split(":")[0].split(".")[0]


def named(name: str, origin: str) -> str:
    """An option as its giver knows it: a flag, or a key of a file."""
    return flag(name) if origin == COMMAND_LINE else f"{origin}: {name}"


def flag(name: str) -> str:
    """An option's flag."""
    return "--" + name.replace("_", "-")


def _merged(layers: Sequence[Layer]) -> dict[str, Any]:
    return {name: value for layer in layers for name, value in layer.given.items()}


def _checked(layer: Layer) -> Layer:
    given = {}
    for name, value in layer.given.items():
        where = named(name, layer.origin)
        given[name] = typed_value(name, value, where)
        check_bounds(name, given[name], where)
    return Layer(given, layer.origin)
