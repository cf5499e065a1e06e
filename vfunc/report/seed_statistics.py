"""Compares arms over seeds: the statistics, shown by `seed_figures`.

Seeds are the units: a figure of an arm is a mean over seeds with Student's 95 % interval, and an
arm is compared with the baseline of the same run, seed by seed, by the paired t test. One metric is
the primary one, named before anything is run. Within each metric the p values are adjusted for the
number of comparisons, over all arms and settings, by Holm's method; those of the other metrics say
only where to look next.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import holm, paired_t, seed_interval
from vfunc.modality import Metric
from vfunc.report.measures import Measures
from vfunc.report.table import BASELINE, told_among
from vfunc.typecheck import typed

UNITS_PER_SECOND = "units_per_second"
ORACLE_GAP = "oracle_gap"
Interval = tuple[float, float]


@dataclass(frozen=True)
class SeedRun:
    """One run: one setting, one seed, all arms.

    Attributes:
        setting: options besides the seed that differ between runs; "" if none do.
        seed: the run's seed.
        arms: figures by arm: those of the metrics that were measured, `units_per_second`, and
            `oracle_gap` of an arm with a designer that was probed.
    """

    setting: str
    seed: int
    arms: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Difference:
    """An arm minus the baseline of the same run, over the seeds that have both.

    Attributes:
        mean: mean of the differences.
        interval: Student's 95 % interval of that mean; None for one seed.
        p_value: two-sided p value of the paired t test; None for one seed, and where the
            differences are all equal without being 0: without a spread, t is not defined.
        p_value_holm: the same, adjusted over all arms and settings.
        better: the number of seeds in which the arm is better than the baseline.
        seeds: the number of seeds.
    """

    mean: float
    interval: Interval | None
    p_value: float | None
    p_value_holm: float | None
    better: int
    seeds: int


@dataclass(frozen=True)
class Measured:
    """A figure of an arm over seeds.

    Attributes:
        values: values, one a seed.
        mean: their mean.
        interval: Student's 95 % interval of the mean; None for one seed.
        difference: difference to the baseline; None for the baseline itself, and without one.
        way: the share of the way from the baseline's mean to that of the arm that is told what
            is right (`TOLD`); None where
            that arm is missing or no better than the baseline.
    """

    values: tuple[float, ...]
    mean: float
    interval: Interval | None
    difference: Difference | None = None
    way: float | None = None


@dataclass(frozen=True)
class Fidelity:
    """An estimator's counterfactual score: Spearman's correlation with what tasks bring.

    Attributes:
        value: the correlation.
        low: lower end of its 95 % bootstrap interval.
        high: upper end.
        horizon: learner steps after which tasks' effects were measured.
    """

    value: float
    low: float
    high: float
    horizon: int


@dataclass(frozen=True)
class ArmOverSeeds:
    """The results of an arm in one setting.

    Attributes:
        setting: the setting (see `SeedRun`).
        arm: the arm's name.
        seeds: the seeds, ascending; all values are in this order.
        metrics: results by metric.
        speed: tokens (images) per second as a multiple of the baseline's in the same run; None
            without it.
        gap: (V(designer) - V(text)) / (V(oracle) - V(text)), halfway; None where it was not
            measured in every run.
        fidelity: its estimator's counterfactual score, where one was given.
    """

    setting: str
    arm: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Measured]
    speed: Measured | None
    gap: Measured | None = None
    fidelity: Fidelity | None = None


@typed
def compare_over_seeds(
    runs: Sequence[SeedRun], measures: Measures, shared: Collection[str] = ()
) -> list[ArmOverSeeds]:
    """Aggregate runs over their seeds, for each setting and arm, in order of appearance.

    Metrics that some arm of some run lacks are left out, since they compare nothing.

    Args:
        runs: the runs, one a setting and seed.
        measures: the metrics.
        shared: arms whose runs are the same in every setting: each is one comparison.

    Raises:
        UserError: no runs, two of the same setting and seed, or no metric that all have.
    """
    if not runs:
        raise UserError("no runs to compare.")
    seen: set[tuple[str, int]] = set()
    for run in runs:
        if (run.setting, run.seed) in seen:
            of = f" of {run.setting}" if run.setting else ""
            raise UserError(f"seed {run.seed}{of} is there twice; leave one of the two runs out.")
        seen.add((run.setting, run.seed))
    metrics = common_metrics(runs, measures)
    if not metrics:
        known = ", ".join(metric.name for metric in measures.metrics)
        raise UserError(f"no metric is in all of the runs; one of {known} has to be.")
    ordered = sorted(runs, key=lambda run: run.seed)
    summaries = [
        _arm_over_seeds([run for run in ordered if run.setting == setting], arm, metrics)
        for setting in dict.fromkeys(run.setting for run in runs)
        for arm in dict.fromkeys(a for run in runs if run.setting == setting for a in run.arms)
    ]
    for metric in metrics:
        summaries = _adjusted(summaries, metric.name, shared)
    return summaries


@typed
def common_metrics(runs: Sequence[SeedRun], measures: Measures) -> list[Metric]:
    """The metrics that every arm of every run has, the primary one first."""
    arms = [figures for run in runs for figures in run.arms.values()]
    return [m for m in reversed(measures.metrics) if all(m.name in figures for figures in arms)]


def _arm_over_seeds(runs: Sequence[SeedRun], arm: str, metrics: Sequence[Metric]) -> ArmOverSeeds:
    runs = [run for run in runs if arm in run.arms]
    paired = [run for run in runs if BASELINE in run.arms]
    speeds = [
        run.arms[arm][UNITS_PER_SECOND] / run.arms[BASELINE][UNITS_PER_SECOND] for run in paired
    ]
    measured = {}
    for metric in metrics:
        difference = _difference(paired, arm, metric) if paired and arm != BASELINE else None
        m = _over_seeds([run.arms[arm][metric.name] for run in runs])
        measured[metric.name] = replace(m, difference=difference, way=_way(paired, arm, metric))
    seeds = tuple(run.seed for run in runs)
    gaps = [run.arms[arm][ORACLE_GAP] for run in runs if ORACLE_GAP in run.arms[arm]]
    return ArmOverSeeds(
        runs[0].setting,
        arm,
        seeds,
        measured,
        _over_seeds(speeds) if speeds else None,
        _over_seeds(gaps) if len(gaps) == len(runs) else None,
    )


def _over_seeds(values: Sequence[float]) -> Measured:
    return Measured(tuple(values), float(np.mean(values)), seed_interval(values))


def _difference(runs: Sequence[SeedRun], arm: str, metric: Metric) -> Difference:
    a, b = (np.array([run.arms[name][metric.name] for run in runs]) for name in (arm, BASELINE))
    d = a - b
    better = int((d > 0).sum() if metric.higher_is_better else (d < 0).sum())
    p_value = paired_t(a.tolist(), b.tolist())
    return Difference(float(d.mean()), seed_interval(d.tolist()), p_value, None, better, len(d))


def _way(runs: Sequence[SeedRun], arm: str, metric: Metric) -> float | None:
    told = next((found for run in runs if (found := told_among(run.arms))), None)
    runs = [run for run in runs if told in run.arms]
    if told is None or not runs:
        return None
    start, end, here = (
        float(np.mean([run.arms[name][metric.name] for run in runs]))
        for name in (BASELINE, told, arm)
    )
    improves = end > start if metric.higher_is_better else end < start
    return (here - start) / (end - start) + 0.0 if improves else None


def _adjusted(
    arms: Sequence[ArmOverSeeds], metric: str, shared: Collection[str]
) -> list[ArmOverSeeds]:
    """The arms with Holm's p values; an undefined p value counts as one more comparison."""
    tested: dict[tuple[str, str], float] = {}
    for arm in arms:
        d = arm.metrics[metric].difference
        if d is not None and d.seeds > 1:
            tested[_comparison(arm, shared)] = 1.0 if d.p_value is None else d.p_value
    if not tested:
        return list(arms)
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    made = []
    for arm in arms:
        d = arm.metrics[metric].difference
        if d is not None and d.seeds > 1:
            p = adjusted[_comparison(arm, shared)]
            d = replace(d, p_value_holm=None if d.p_value is None else p)
            m = replace(arm.metrics[metric], difference=d)
            arm = replace(arm, metrics={**arm.metrics, metric: m})
        made.append(arm)
    return made


def _comparison(arm: ArmOverSeeds, shared: Collection[str]) -> tuple[str, str]:
    return ("" if arm.arm in shared else arm.setting), arm.arm
