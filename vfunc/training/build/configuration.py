"""Completes the configuration of a run from the options given, and writes it back.

Options come in layers (preset, file, command line), each a flat mapping of names to values, the
later winning; see `vfunc.config.layers`. The modality decides which options there are, and the
estimator adds its own. Neither modality brings the other's libraries: the other one's options are
looked at only where one of them was given, to say so.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from vfunc.config.build import arguments
from vfunc.config.declared import Options
from vfunc.config.fields import fields_of
from vfunc.config.known import Catalogue, flag, known_options
from vfunc.config.layers import COMMAND_LINE, Layer, merged, named, origins_told, without_useless
from vfunc.config.resolved import ResolvedOptions
from vfunc.config.toml import as_toml
from vfunc.config.values import checked_value, nearest
from vfunc.errors import UserError
from vfunc.estimators import ESTIMATORS, Estimator, find_estimator, option_names
from vfunc.extras import MissingExtraError
from vfunc.training.options.command_options import CommandOptions
from vfunc.training.options.estimator_options import check_feedback
from vfunc.training.options.optimizer_options import ADAMS_RATE
from vfunc.training.options.run_config import RunConfig
from vfunc.training.options.run_options import LANGUAGE, VISION, ModalityName

_Named = tuple[tuple[str, Callable[..., Estimator]], ...]
MODALITIES: tuple[str, ...] = get_args(ModalityName)
COMMAND = tuple(known_options({"command": CommandOptions}))
"""Options of the command, which are no part of a run's configuration."""


def config_class(modality: str) -> type[RunConfig]:
    """The class of a modality's configurations."""
    # imported here: neither modality brings the other's libraries
    if modality == VISION:
        from vfunc.training.build.vision_config import VisionConfig

        return VisionConfig
    from vfunc.training.build.language_config import LanguageConfig

    return LanguageConfig


def groups_of(modality: str) -> dict[str, type]:
    """The groups of a modality's options, those of its own after the run's."""
    shared, every = (
        {field.name: field.hint for field in fields_of(made) if field.name != "options"}
        for made in (RunConfig, config_class(modality))
    )
    first = ("command", "run")
    own = {name: made for name, made in every.items() if name not in shared}
    return (
        {name: shared[name] for name in first}
        | own
        | {name: made for name, made in shared.items() if name not in first}
    )


def catalogue_of(modality: str, estimators: tuple[str, ...] = ()) -> Catalogue:
    """The options that there are.

    Args:
        modality: modality of the run.
        estimators: names, of which those of one's own, `package.module:Name`, add their fields.

    Raises:
        UserError: an estimator cannot be imported, or has a field that is an option already.
    """
    own = ((name, find_estimator(name)) for name in estimators if ":" in name)
    return _catalogue(modality, tuple(own), tuple(ESTIMATORS.items()))


def catalogue_of_config(config: RunConfig) -> Catalogue:
    """The options of a configuration, those of its own estimator among them."""
    return catalogue_of(config.run.modality, _estimators(config.options))


@functools.lru_cache(maxsize=16)
def _catalogue(modality: str, own: _Named, registered: _Named) -> Catalogue:
    """The same; estimators that are registered later make another."""
    return known_options(groups_of(modality), dict(own))


def resolve(*layers: Layer | Mapping[str, Any], estimators: Sequence[str] = ()) -> RunConfig:
    """The complete configuration of these options.

    Resolving what `given_options` says of a configuration gives the same configuration again.

    Args:
        *layers: what was given, from the weakest layer to the strongest; a bare mapping counts
            as the command line.
        estimators: further estimators whose options are known, so that one that is given and not
            the chosen estimator's is refused as such.

    Raises:
        UserError: an unknown option, a value of the wrong type or out of bounds, an option that
            does nothing in the combination, or options that contradict each other.
    """
    checked, known = _placed(layers, estimators)
    own = _estimators(merged(checked))
    given = without_useless(checked, lambda some: _useless(some, known))
    modality = given.get("modality", LANGUAGE)
    resolved = ResolvedOptions(catalogue_of(modality, known), given)
    with origins_told(checked):
        _check_combination(resolved)
        return _config(ResolvedOptions(catalogue_of(modality, own), given))


def useless_options(*layers: Layer, estimators: Sequence[str] = ()) -> dict[str, str]:
    """Of all options given those that do nothing in their combination, and why.

    Args:
        *layers: as in `resolve`, which refuses such an option, or lets it give way.
        estimators: as in `resolve`.

    Raises:
        UserError: an unknown option, or a value of the wrong type or out of bounds.
    """
    checked, known = _placed(layers, estimators)
    return _useless(merged(checked), known)


def _placed(
    layers: Sequence[Layer | Mapping[str, Any]], estimators: Sequence[str]
) -> tuple[list[Layer], tuple[str, ...]]:
    """The layers with checked values, and the estimators of one's own whose options are known."""
    placed = [layer if isinstance(layer, Layer) else Layer(layer) for layer in layers]
    everything = merged(placed)
    named = (name for layer in placed for name in _estimators(layer.given))
    known = tuple(dict.fromkeys((*_estimators(everything), *named, *estimators)))
    return [_checked(layer, everything, known) for layer in placed], known


def given_options(config: RunConfig) -> dict[str, Any]:
    """The options that repeat a configuration: all that are set and do something."""
    present = {name: value for name, value in config.options.items() if value is not None}
    useless = _useless(present, _estimators(present))
    return {name: value for name, value in present.items() if name not in useless}


def to_toml(config: RunConfig) -> str:
    """A configuration as TOML that gives it again.

    The command's own options (`--name`, `--overwrite`, ...) are left out, and so are options that
    do nothing in this configuration, which a file may not give.
    """
    options = {k: v for k, v in given_options(config).items() if k not in COMMAND}
    return as_toml(options, catalogue_of(config.run.modality, _estimators(options)))


def default_name(config: RunConfig) -> str:
    """A name for a run that was given none: its data, what is learned, estimator and seed."""
    estimator = config.options["estimator"].rsplit(":", 1)[-1]
    return f"{config.subject}-{estimator}-seed{config.run.seed}"


def unknown_option(name: str, modality: str, estimators: tuple[str, ...] = ()) -> str:
    """What to say of a name that is no option, or one of the other modality.

    Args:
        name: the option that was given.
        modality: modality of the run.
        estimators: estimators, as in `catalogue_of`.
    """
    theirs = _others(modality)
    if name in theirs:
        return f" does nothing here: it is for --modality {_other(modality)}"
    known = [*catalogue_of(modality, estimators), *theirs]
    return nearest(name, known)


def _others(modality: str) -> Catalogue:
    """The options of the other modality, for messages; none where it is not installed."""
    with contextlib.suppress(MissingExtraError):
        return catalogue_of(_other(modality))
    return {}


def _other(modality: str) -> str:
    return VISION if modality == LANGUAGE else LANGUAGE


def _estimators(given: Options) -> tuple[str, ...]:
    name = given.get("estimator")
    return (name,) if isinstance(name, str) and ":" in name else ()


def _useless(given: Options, estimators: tuple[str, ...]) -> dict[str, str]:
    modality = given.get("modality", LANGUAGE)
    catalogue = catalogue_of(modality, estimators)
    here = {name: value for name, value in given.items() if name in catalogue}
    foreign = {n: f"it is for --modality {_other(modality)}" for n in given if n not in catalogue}
    resolved = ResolvedOptions(catalogue, here)
    useless = _another_estimators(resolved) | resolved.useless()
    # in the order in which they were given, so that the first mistake is told first
    return {n: (foreign | useless)[n] for n in given if n in foreign or n in useless}


def _another_estimators(resolved: ResolvedOptions) -> dict[str, str]:
    """Given options that the chosen estimator does not have, and which it has."""
    name = resolved["estimator"]
    takes = [n for n in option_names(find_estimator(name)) if n in resolved.catalogue]
    reason = (
        f"the estimator {name!r} does not use it; it takes "
        f"{', '.join(map(flag, takes)) or 'no options'}"
    )
    given = (n for n in resolved.given if resolved.catalogue[n].opened)
    return dict.fromkeys((n for n in given if n not in takes), reason)


def _checked(layer: Layer, everything: Options, estimators: tuple[str, ...]) -> Layer:
    """The layer with every value of its option's type.

    Raises:
        UserError: an option that there is not, or a value that its option does not take.
    """
    modality = everything.get("modality", LANGUAGE)
    modality = modality if modality in MODALITIES else LANGUAGE  # refused below
    catalogue, given = catalogue_of(modality, estimators), {}
    from_file = layer.origin != COMMAND_LINE
    for name, value in layer.given.items():
        where = named(name, layer.origin)
        if from_file and name in COMMAND:
            raise UserError(
                f"{layer.origin}: {name} is not part of a configuration; give {flag(name)}"
            )
        known = catalogue.get(name) or _others(modality).get(name)
        if known is None:
            hint = unknown_option(name, modality, estimators)
            if from_file:
                raise UserError(f"{layer.origin}: no such option {name!r}{hint}")
            raise UserError(f"{where}: no such option{hint}")
        given[name] = checked_value(known, value, where)
    return Layer(given, layer.origin)


def _check_combination(resolved: ResolvedOptions) -> None:
    """Refuse options that contradict each other or need one that is missing.

    Raises:
        UserError: the first contradiction, and how to resolve it.
    """
    modality, budget = resolved["modality"], resolved["budget"]
    made = config_class(modality)
    counted = made.unit
    if budget.unit in ("tokens", "images") and budget.unit != counted:
        raise UserError(
            f"--budget {budget}: --modality {modality} counts {counted}; give {counted}, steps or "
            "a time"
        )
    made.check(resolved.given, resolved)
    check_feedback(resolved)
    if resolved["optimizer"] not in ADAMS_RATE and "lr" not in resolved.given:
        raise UserError(
            f"--optimizer {resolved['optimizer']} has no learning rate that suits most learners; "
            "give --lr"
        )


def _config(resolved: ResolvedOptions) -> RunConfig:
    modality = resolved["modality"]
    groups = {name: made(**arguments(made, resolved)) for name, made in groups_of(modality).items()}
    return config_class(modality)(options=resolved.flat(), **groups)
