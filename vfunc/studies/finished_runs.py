"""Reads finished runs from their metrics.json, and what they can be compared in."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.modality import Metric
from vfunc.report.measures import Measures, read_measures
from vfunc.report.seed_statistics import ORACLE_GAP, UNITS_PER_SECOND, SeedRun
from vfunc.storage.manifest import read_manifest, require_as_written
from vfunc.studies.estimators_on_offer import ESTIMATORS_ON_OFFER, OF_ESTIMATORS, estimator_of
from vfunc.studies.repeated.places import run_places
from vfunc.training.files.identity import INDIFFERENT, files_only
from vfunc.training.run_directory import RunDirectory

NO_SETTING = (*INDIFFERENT, "seed", "arms")
"""Options that do not make a setting of its own: the machine and what is kept on it, by which two
runs may differ and be the same; a seed; arms, which are compared within runs."""


@dataclass(frozen=True)
class FoundRun:
    """A finished run, as its metrics.json has it.

    Attributes:
        path: the run's directory.
        setting: setting, as in `SeedRun`.
        content: content of metrics.json.
        estimator: the name of its estimator, where several named ones are compared.
    """

    path: Path
    setting: str
    content: dict[str, Any]
    estimator: str = ""

    @property
    def measures(self) -> Measures:
        """What it was measured in; a file that does not say so is of a language model."""
        if "metrics" not in self.content:
            return Measures("tokens", language_metrics())
        with self._being_read():
            return read_measures(self.content.get("unit"), self.content["metrics"])

    @property
    def reads(self) -> dict[str, Any]:
        """What it read from files, see `vfunc.training.files.identity`; nothing where unknown."""
        manifest = read_manifest(self.path)
        return files_only({} if manifest is None else manifest.identity)

    @property
    def seed_run(self) -> SeedRun:
        """What of it is compared."""
        measures = self.measures
        with self._being_read():
            seed = self.content["config"]["seed"]
            if type(seed) is not int or not self.content["arms"]:
                raise ValueError("no arms" if type(seed) is int else f"the seed is {seed!r}")
            return SeedRun(
                self.setting,
                seed,
                {
                    name: _figures(arm, measures) | _gap(self.content.get("signal"), name)
                    for name, arm in self.content["arms"].items()
                },
            )

    @contextlib.contextmanager
    def _being_read(self) -> Iterator[None]:
        try:
            yield
        except (AttributeError, LookupError, TypeError, ValueError, ZeroDivisionError) as error:
            raise UserError(
                f"{self.path / 'metrics.json'} is not that of a run ({error!r}); leave it out, or "
                "run it again"
            ) from error


def language_metrics(patterns: Sequence[str] = ()) -> tuple[Metric, ...]:
    """What a language run is measured in.

    Args:
        patterns: its `--measure-tokens`.
    """
    # imported here: runs of vision are compared without language's libraries
    from vfunc.language.evaluation.measured_tokens import read_patterns
    from vfunc.language.reporting import language_metrics as metrics_of

    return metrics_of(one.name for one in read_patterns(patterns)) if patterns else metrics_of()


def by_estimator(found: Sequence[FoundRun], arm: str) -> list[SeedRun]:
    """What is compared, where runs of several named estimators are one comparison.

    In place of the arm that they differ in stand as many, by the estimators' names; other arms are
    those of whichever run trained them.

    Args:
        found: the runs.
        arm: the arm that estimators differ in.
    """
    made: dict[tuple[str, int], dict[str, Mapping[str, float]]] = {}
    for one in found:
        run = one.seed_run
        arms = made.setdefault((run.setting, run.seed), {})
        arms |= {compared_as(one, name, arm): f for name, f in run.arms.items()}
    return [SeedRun(setting, seed, arms) for (setting, seed), arms in made.items()]


def compared_as(one: FoundRun, name: str, arm: str) -> str:
    """The name of a run's arm in the comparison: that of the estimator for the one that differs."""
    return one.estimator if name == arm else name


def told_twice(found: Sequence[FoundRun], arm: str) -> list[str]:
    """Arms of a seed that several runs trained, with figures that differ, and whose are compared.

    Args:
        found: the runs, of several named estimators.
        arm: the arm that estimators differ in.
    """
    held: dict[tuple[str, int, str], list[tuple[FoundRun, Any]]] = {}
    for one in found:
        run = one.seed_run
        for name, trained in one.content["arms"].items():
            key = (run.setting, run.seed, compared_as(one, name, arm))
            held.setdefault(key, []).append((one, trained["metrics"]))
    return [
        f"{name} of seed {seed} was trained by {len(runs)} runs, with other figures in each; those "
        f"of {runs[-1][0].path} are compared."
        for (_, seed, name), runs in held.items()
        if any(metrics != runs[-1][1] for _, metrics in runs)
    ]


def read_run(path: Path, setting: str = "", estimator: str = "") -> FoundRun:
    """Read a finished run.

    Args:
        path: the run's directory.
        setting: options besides the seed that differ between runs.
        estimator: the name of its estimator, where several named ones are compared.

    Raises:
        UserError: it holds no metrics.json that can be read.
    """
    metrics = RunDirectory(path).metrics
    require_as_written(metrics)
    try:
        content = json.loads(metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{metrics} cannot be read: {error}") from error
    found = FoundRun(path, setting, content, estimator)
    _ = found.seed_run  # complain now, with its place
    return found


def find_runs(
    paths: Sequence[Path], estimators: Sequence[str] = (), but: Collection[Path] = ()
) -> list[FoundRun]:
    """The finished runs in directories, each named by the options in which they differ.

    Args:
        paths: directories of runs, or folders with such directories, three levels deep at most,
            as `compare` lays them out: setting, estimator, seed.
        estimators: names of `ESTIMATORS_ON_OFFER` that runs are told apart by, too; runs of others
            are left out. None are.
        but: directories of runs that are left out.

    Raises:
        UserError: a directory holds no run or one that is not finished, two repeat each other, or
            none is of these estimators.
    """
    places = [path for path in run_places(paths) if path not in but]
    unfinished = [path for path in places if not RunDirectory(path).metrics.exists()]
    if unfinished:
        raise UserError(
            f"not finished: {', '.join(map(str, unfinished))}; finish it by --resume, or "
            "name the other directories"
        )
    found = [read_run(path) for path in places]
    if estimators:
        found = [replace(one, estimator=estimator_of(_options(one), estimators)) for one in found]
        order = list(ESTIMATORS_ON_OFFER).index
        found = sorted((f for f in found if f.estimator), key=lambda f: order(f.estimator))
        if not found:
            raise UserError(f"--from: none of these runs is of {', '.join(estimators)}")
    _ = measures_of(found)
    options = [_options(one) for one in found]
    if estimators:
        options = [{k: v for k, v in o.items() if k not in OF_ESTIMATORS} for o in options]
    names = dict.fromkeys(name for one in options for name in one)
    varied = [name for name in names if _varies([o[name] for o in options if name in o])]
    named = [
        replace(f, setting=", ".join(f"{n}={_shown(o.get(n))}" for n in varied))
        for f, o in zip(found, options, strict=True)
    ]
    first: dict[tuple[str, str, int], Path] = {}
    for one in named:
        seed = one.seed_run.seed
        before = first.setdefault((one.setting, one.estimator, seed), one.path)
        if before != one.path:
            raise UserError(f"{before} and {one.path} repeat each other: both have seed {seed}")
    return named


def measures_of(found: Sequence[FoundRun]) -> Measures:
    """What runs can be compared in: the metrics that all of them declare.

    Raises:
        UserError: they are of two modalities, or mean different things by one name.
    """
    first, *others = found
    measures, shared = first.measures, first.measures.metrics
    for other in others:
        theirs = {metric.name: metric for metric in other.measures.metrics}
        if other.measures.unit != measures.unit:
            raise UserError(
                f"{first.path} counts {measures.unit} and {other.path} {other.measures.unit}: runs "
                "of two modalities are not compared; give those of one"
            )
        for metric in shared:
            if metric.name in theirs and _meaning(metric) != _meaning(theirs[metric.name]):
                raise UserError(
                    f"{first.path} and {other.path} mean different things by {metric.name}; run "
                    "one of them again"
                )
        shared = tuple(metric for metric in shared if metric.name in theirs)
    return Measures(measures.unit, shared)


def _figures(arm: Any, measures: Measures) -> dict[str, float]:
    figures = {metric.name: arm["metrics"].get(metric.name) for metric in measures.metrics}
    measured = {name: float(value) for name, value in figures.items() if value is not None}
    measured[UNITS_PER_SECOND] = arm[measures.unit] / arm["seconds"]
    for name, value in measured.items():
        if not math.isfinite(value):  # a run writes null
            raise ValueError(f"{name} is {value}")
    return measured


def _gap(signal: Any, arm: str) -> dict[str, float]:
    """How far the designer went from text to oracle, where a probe told."""
    gap = ((signal or {}).get(arm) or {}).get(ORACLE_GAP)
    return {} if gap is None else {ORACLE_GAP: float(gap)}


def _meaning(metric: Metric) -> tuple[str, bool, float]:
    """What two runs have to agree on; how a metric is titled may change."""
    return metric.unit, metric.higher_is_better, metric.scale


def _options(one: FoundRun) -> dict[str, Any]:
    """The options that make its setting; files from before there were two modalities lack one."""
    config = {"modality": "language"} | one.content["config"]
    return {k: v for k, v in config.items() if k not in NO_SETTING}


def _varies(values: Sequence[Any]) -> bool:
    """Whether runs differ in an option, of those that have it."""
    return any(value != values[0] for value in values)


def _shown(value: object) -> str:
    if value is None:
        return "default"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
