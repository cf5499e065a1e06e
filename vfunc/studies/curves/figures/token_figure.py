"""Draws a metric against tokens (images), and what the baseline needs against what an arm read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from vfunc.evaluation.pass_at_k import seed_interval
from vfunc.modality import Metric
from vfunc.report.drawing import INK, arm_style, legend, log_if_wide, new_figure, save, tidy
from vfunc.report.measures import LOSS, Measures, name_of
from vfunc.report.table import si
from vfunc.studies.curves.token_reach import Followed, Needed


def draw_tokens(
    curves: Mapping[str, Sequence[Followed]],
    needed: Mapping[str, Sequence[Needed]],
    metric: Metric,
    measures: Measures,
    path: Path,
) -> None:
    """The metric of every arm, and beside it the baseline's need where there is a baseline.

    Args:
        curves: each arm's, one a seed.
        needed: what the baseline needs at each evaluation of another arm.
        metric: the metric.
        measures: the runs' metrics.
        path: the PNG to write.
    """
    figure = new_figure(4.5 * (1 + bool(needed)), 3.7)
    panels = np.atleast_1d(figure.subplots(1, 1 + bool(needed)))
    several = _draw_curves(panels[0], curves, metric)
    unit = measures.unit_in_words(metric)
    panels[0].set_ylabel(name_of(metric) + (f" ({unit})" if unit else ""))
    panels[0].set_xlabel(f"{measures.unit} read")
    if metric.name == LOSS:
        log_if_wide(panels[0])
    if needed:
        _draw_needed(panels[1], needed)
        panels[1].set_xlabel(f"{measures.unit} read by the arm")
        panels[1].set_ylabel(f"{measures.unit} that the baseline needs\nto be as good")
    for axes in panels:
        for axis in (axes.xaxis, axes.yaxis) if axes is not panels[0] else (axes.xaxis,):
            axis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
            axis.set_major_formatter(FuncFormatter(lambda number, _: si(float(number))))
        tidy(axes)
    told = ["band: 95 % interval over seeds"] if several else []
    told += ["above the dashed line: the baseline needs more"] if needed else []
    if told:
        figure.supxlabel("; ".join(told), fontsize=8.5, color=INK)
    legend(figure)
    save(figure, path)


def _draw_curves(axes: Axes, curves: Mapping[str, Sequence[Followed]], metric: Metric) -> bool:
    """Draw means and bands; whether there are any bands."""
    several = False
    for arm, of in curves.items():
        colour, marker = arm_style(arm)
        at = np.mean([one.units for one in of], axis=0)
        values = metric.scale * np.array([one.values for one in of])
        axes.plot(at, values.mean(0), color=colour, marker=marker, markersize=4, lw=1.6, label=arm)
        ends = [seed_interval(column.tolist()) for column in values.T]
        if all(end is not None for end in ends):
            low, high = np.array(ends, dtype=float).T
            axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
            several = True
    return several


def _draw_needed(axes: Axes, needed: Mapping[str, Sequence[Needed]]) -> None:
    last = 0.0
    for arm, of in needed.items():
        colour, marker = arm_style(arm)
        means = [(float(np.mean(one.units)), one.mean_needed) for one in of]
        known = [(x, y) for x, y in means if y is not None]
        if known:
            axes.plot(*zip(*known, strict=True), color=colour, marker=marker, markersize=4, lw=1.4)
        last = max([last, *(x for x, _ in means), *(y for _, y in known)])
        for x, y in means:
            if y is None:  # more than the baseline has read
                axes.annotate(
                    "",
                    (x, 1.0),
                    (x, 0.93),
                    xycoords=("data", "axes fraction"),
                    textcoords=("data", "axes fraction"),
                    arrowprops={"arrowstyle": "->", "color": colour},
                )
        if len(known) < len(means):
            axes.plot(
                [],
                [],
                color=colour,
                marker="$↑$",
                ls="",
                label="baseline not as good in every seed",
            )
    axes.plot([0, last], [0, last], color=INK, lw=1, ls=(0, (4, 3)), zorder=0.5)
    axes.set_xlim(0, 1.05 * last)
    axes.set_ylim(0, 1.15 * last)
