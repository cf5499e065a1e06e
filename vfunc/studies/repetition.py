"""Repeats a run for each seed and setting, checked before the first one starts."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vfunc.config.command_line import given_words
from vfunc.config.known import flag, known_options
from vfunc.config.layers import Layer
from vfunc.config.toml import read_preset, read_toml
from vfunc.errors import UserError
from vfunc.estimators import ESTIMATORS, find_estimator
from vfunc.modality import Metric
from vfunc.report.measures import LOSS
from vfunc.studies.estimators_on_offer import ESTIMATORS_ON_OFFER
from vfunc.studies.finished_runs import language_metrics
from vfunc.studies.repeated.estimator_runs import EstimatorRun, estimator_runs
from vfunc.studies.repeated.settings import Setting, naming, settings_of, tried_values
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import default_name, resolve
from vfunc.training.files.identity import INDIFFERENT, differences, files_only
from vfunc.training.files.identity import told as in_a_line
from vfunc.training.files.inputs import digests_of
from vfunc.training.options.run_config import RunConfig
from vfunc.training.options.run_options import VISION
from vfunc.training.run_command_line import (
    PRESETS,
    files_named,
    given_on_command_line,
    options_there,
)
from vfunc.training.run_directory import RunDirectory

BARRED = {
    "seed": "every run has its own; give --seeds",
    "resume": "the same command given again goes on with what was interrupted",
}


@dataclass(frozen=True)
class PlannedRun:
    """A run to be made, or made already.

    Attributes:
        setting: options besides the seed, and besides the estimator that is named, if one is.
        config: its configuration.
        directory: its directory.
        estimator: the name of its estimator, where several named ones are compared.
        gave_way: options that were given and that this estimator does not use.
    """

    setting: str
    config: RunConfig
    directory: RunDirectory
    estimator: str = ""
    gave_way: tuple[str, ...] = ()

    @property
    def state(self) -> Literal["finished", "interrupted", "diverged", "to do"]:
        """How far it is."""
        if self.config.command.overwrite or not self.directory.path.exists():
            return "to do"
        if self.directory.metrics.exists():
            return "finished"
        return "diverged" if self.directory.diverged.exists() else "interrupted"


def plan(
    seeds: Sequence[int],
    vary: Sequence[str],
    rest: Sequence[str],
    presets: Path = PRESETS,
    named: Sequence[str] = (),
    *,
    settings: Sequence[Setting] = (),
    study: str = "compare",
) -> tuple[Path, list[PlannedRun]]:
    """The folder of all runs, and the runs: for each seed every setting.

    Args:
        seeds: one run for each, in every setting.
        vary: `OPTION=VALUE,VALUE`, each an option of run.
        rest: further arguments of run, the same for all runs.
        presets: folder of the presets.
        named: names of `ESTIMATORS_ON_OFFER`, a run each; arms that do not depend on the estimator
            are trained with the first alone.
        settings: the settings, where they are not all combinations of `vary`.
        study: what a folder without a name is called after.

    Raises:
        UserError: an option that a run refuses, in whichever setting.
    """
    tried, spelled = tried_values(vary), set(given_words(rest))
    estimators = _estimators(tried, presets)
    _refuse_two_types(estimators, {*spelled, *tried})
    # the modality may stand in a varied file: the first tells it, where nothing else does
    files = [n for n in ("preset", "config") if n in tried and n not in spelled]
    told = [word for n in files for word in (flag(n), tried[n][0])]
    given = given_on_command_line([*told, *rest], presets=presets, estimators=estimators)
    for name, reason in BARRED.items():
        if name in given:
            raise UserError(f"{flag(name)}: {reason}")
    if not settings:
        settings = settings_of(vary, options_there([*told, *rest], presets, estimators))
    varied = settings[0].varied
    if both := [name for name in varied if {name, f"no_{name}"} & spelled]:
        raise UserError(f"{flag(both[0])} is given and varied as well; leave one out")
    if named:
        _require_free(named, given, varied)
    planned: list[PlannedRun] = []
    folder = None
    for seed, setting in itertools.product(seeds, settings):
        words = [*rest, *setting.arguments, "--seed", str(seed)]
        with naming(setting.label):
            line = Layer(given_on_command_line(words, presets=presets, estimators=estimators))
            files = files_named(line.given, presets)
            if named:
                made = estimator_runs(named, files, line, estimators)
            else:
                made = {"": EstimatorRun(resolve(*files, line, estimators=estimators))}
        if folder is None:
            first = next(iter(made.values())).config
            stem = "-".join([study, default_name(first).removesuffix(f"-seed{seed}"), *varied])
            folder = Path(first.command.runs_dir) / (first.command.name or stem)
        place = folder / re.sub(r"[^\w.+=,@-]", "_", setting.label.replace(", ", ","))
        for name, one in made.items():
            directory = RunDirectory(place / name / f"seed{seed}")
            here = one.config.changed(name=directory.path.name, runs_dir=str(place / name))
            planned.append(PlannedRun(setting.label, here, directory, name, one.gave_way))
    if len({one.config.run.modality for one in planned}) > 1:
        raise UserError("--vary: runs of two modalities are not compared; vary within one")
    if len({one.directory.path for one in planned}) < len(planned):
        raise UserError("--vary: two of the values would have the same directory")
    assert folder is not None
    return folder, planned


def told_to_give_way(planned: Sequence[PlannedRun]) -> list[str]:
    """A note on the options that give way, and in the runs of which estimators; none without."""
    where: dict[str, dict[str, None]] = {}
    for one in planned:
        for option in one.gave_way:
            where.setdefault(option, {})[one.estimator] = None
    told = [f"{flag(option)} in {', '.join(names)}" for option, names in sorted(where.items())]
    said = "Options that an estimator does not use give way in its runs: "
    return [f"{said}{'; '.join(told)}."] if told else []


def _require_free(named: Sequence[str], given: Mapping[str, Any], varied: Sequence[str]) -> None:
    """Refuse what the named estimators would overrule."""
    for option in dict.fromkeys(o for name in named for o in ESTIMATORS_ON_OFFER[name]):
        if option in given or option in varied:
            raise UserError(f"{flag(option)} is set by --estimators; leave one of them out")


def check(
    planned: Sequence[PlannedRun], primary: str | None = None
) -> dict[str, Mapping[str, Any]]:
    """Refuse before the first run what a later one would stumble over.

    Args:
        planned: the runs.
        primary: the metric that the comparison is to be about, if one is asked for.

    Returns:
        By setting what a run says of its data (`Reporting.data`), of the settings that were loaded
        for this.

    Raises:
        UserError: a run is there that was made with other options, a setting's learner or data
            cannot be loaded or do not fit together, or no run measures the primary metric.
    """
    digests: dict[Path, dict[str, Any]] = {}
    loaded: dict[str, Mapping[str, Any]] = {}
    for one in planned:
        if one.state == "to do":
            continue
        path = one.directory.path
        if not one.directory.config.exists():
            raise UserError(f"{path} is there and not a run; move it away, or give --name")
        before, now = resolve(read_toml(one.directory.config)).options, one.config.options
        names = dict.fromkeys((*now, *before))
        other = [n for n in names if n not in INDIFFERENT and before.get(n) != now.get(n)]
        if other:
            told = ", ".join(f"{n} {before.get(n)} there, {now.get(n)} here" for n in other)
            raise UserError(
                f"{path} was run with other options ({told}); give --name for another comparison, "
                "or --overwrite to replace it"
            )
        manifest = one.directory.manifest()
        if manifest is not None and manifest.identity:
            reads = {"options": {}, "inputs": digests_of(one.config, digests)}
            if changes := differences(files_only(manifest.identity), reads):
                raise UserError(
                    f"{path} was run on other data ({in_a_line(changes)}); undo that, or give "
                    "--name for another comparison, or --overwrite to replace it"
                )
    named = primary not in (None, LOSS)
    if named and planned[0].config.run.modality != VISION:
        for one in planned:
            _require_metric(primary, language_metrics(one.config.options["measure_tokens"] or ()))
        named = False  # known without loading anything
    several = len({(one.setting, one.estimator) for one in planned}) > 1
    if not (several or named or planned[0].config.command.dry_run):
        return {}  # the first run loads what the others need, before it writes anything
    for one in planned:
        # an estimator's own options need no learner to be checked by
        if one.state in ("to do", "interrupted") and one.setting not in loaded:
            with naming(one.setting):
                reporting = assemble(one.config).reporting
                _require_metric(primary, reporting.metrics)
            loaded[one.setting] = reporting.data
    return loaded


def _require_metric(primary: str | None, metrics: Sequence[Metric]) -> None:
    known = [metric.name for metric in metrics]
    if primary is not None and primary not in known:
        raise UserError(f"--primary {primary}: there is no such metric; give {' or '.join(known)}")


def _estimators(tried: Mapping[str, Sequence[str]], presets: Path) -> tuple[str, ...]:
    """The estimators to try, those of varied files included: those of one's own bring options."""
    files: list[Layer] = []
    for preset in tried.get("preset", ()):
        with contextlib.suppress(UserError):  # told when it is read for good
            files.append(read_preset(preset, presets))
    for config in tried.get("config", ()):
        with contextlib.suppress(UserError):
            files.append(read_toml(Path(config)))
    named = [*tried.get("estimator", ()), *(file.given.get("estimator") for file in files)]
    return tuple(dict.fromkeys(name for name in named if isinstance(name, str)))


def _refuse_two_types(estimators: Sequence[str], spelled: Collection[str]) -> None:
    """Refuse an option that two estimators read differently: it is given once for all settings."""
    known = [name for name in estimators if ":" in name or name in ESTIMATORS]
    having: dict[str, tuple[str, Any]] = {}
    for name in known:
        for option in known_options({name: find_estimator(name)}).values():
            first, kind = having.setdefault(option.name, (name, option.kind))
            if kind != option.kind and {option.name, f"no_{option.name}"} & {*spelled}:
                raise UserError(
                    f"the estimators {first!r} and {name!r} both have an option "
                    f"{flag(option.name)}, of different types; rename one, or compare them apart"
                )
