"""Draws metrics against the size of the feedback."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from vfunc.modality import Metric
from vfunc.report.drawing import INK, arm_style, legend, new_figure, save, tidy
from vfunc.report.measures import Measures, name_of
from vfunc.report.seed_statistics import ArmOverSeeds, Measured
from vfunc.studies.curves.swept_runs import touched

MOST_PANELS = 6


def draw_sizes(
    arms: Sequence[ArmOverSeeds],
    examples: Mapping[str, int],
    measures: Measures,
    metrics: Sequence[str],
    path: Path,
) -> None:
    """One panel a metric: means over seeds with 95 % intervals, and a pale dot a seed.

    An arm that sees no feedback is a level line, its interval a band.

    Args:
        arms: every arm in every setting.
        examples: labelled examples in each setting.
        measures: the metrics.
        metrics: names of those that are drawn, the primary one first.
        path: the PNG to write.
    """
    shown = list(metrics)[:MOST_PANELS]
    columns = min(len(shown), 3)
    rows = math.ceil(len(shown) / columns)
    figure = new_figure(3.9 * columns + 0.3, 3.5 * rows + (0.4 if rows > 1 else 0.0))
    places = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for empty in places[len(shown) :]:
        empty.remove()
    for axes, name in zip(places, shown, strict=False):
        metric = measures.metric(name)
        for arm in dict.fromkeys(one.arm for one in arms):
            of = {examples[one.setting]: one.metrics[name] for one in arms if one.arm == arm}
            draw = _line if touched(arm) else _level
            draw(axes, arm, metric, dict(sorted(of.items())))
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(sorted(examples.values())))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:,.0f}"))
        axes.margins(x=0.08)
        axes.set_xlabel("labelled feedback examples")
        unit = measures.unit_in_words(metric)
        axes.set_ylabel(name_of(metric) + (f" ({unit})" if unit else ""))
        tidy(axes)
    if any(len(arm.seeds) > 1 for arm in arms):
        figure.supxlabel(
            "pale dots: seeds; bars and band: 95 % interval over seeds", fontsize=8.5, color=INK
        )
    legend(figure)
    save(figure, path)


def _line(axes: Axes, arm: str, metric: Metric, of: Mapping[int, Measured]) -> None:
    colour, marker = arm_style(arm)
    at, means = list(of), [metric.scale * m.mean for m in of.values()]
    for size, m in of.items():
        dots = metric.scale * np.array(m.values)
        axes.scatter([size] * len(dots), dots, s=12, color=colour, alpha=0.4, lw=0)
        if m.interval:
            axes.plot([size] * 2, metric.scale * np.array(m.interval), color=colour, lw=1.6)
    axes.plot(at, means, color=colour, marker=marker, markersize=5, lw=1.6, label=arm)


def _level(axes: Axes, arm: str, metric: Metric, of: Mapping[int, Measured]) -> None:
    colour, _ = arm_style(arm)
    m = next(iter(of.values()))
    if m.interval:
        low, high = metric.scale * np.array(m.interval)
        axes.axhspan(low, high, color=colour, alpha=0.12, lw=0)
    axes.axhline(metric.scale * m.mean, color=colour, lw=1.4, ls=(0, (4, 3)), label=arm)
