"""Words and figures of curves' tables: a mean with its interval, a difference, notes on seeds."""

from __future__ import annotations

from collections.abc import Sequence

from vfunc.modality import Metric
from vfunc.report.measures import Measures, name_of, written
from vfunc.report.seed_statistics import ArmOverSeeds, Measured
from vfunc.report.table import NONE, p_text


def label_of(metric: Metric, measures: Measures) -> str:
    """A metric's name and unit, for a table's title."""
    unit = measures.unit_in_words(metric)
    return name_of(metric) + (f", {unit}" if unit else "")


def with_interval(metric: Metric, m: Measured) -> str:
    """A mean over seeds, with half its interval where there is one."""
    return written(metric, m.mean) + _reach(metric, m.interval)


def against_baseline(metric: Metric, m: Measured) -> list[str]:
    """The difference to the baseline, and its adjusted p value."""
    d = m.difference
    if d is None:
        return [NONE, NONE]
    return [written(metric, d.mean, "+") + _reach(metric, d.interval), p_text(d.p_value_holm)]


def seeds_notes(arms: Sequence[ArmOverSeeds]) -> list[str]:
    """What there is to say of the number of seeds."""
    if all(len(arm.seeds) == 1 for arm in arms):
        return ["One seed: no interval over seeds, and no test."]
    return []


def _reach(metric: Metric, interval: tuple[float, float] | None) -> str:
    if interval is None:
        return ""
    return f" ± {written(metric, (interval[1] - interval[0]) / 2)}"
