"""Draws Pass@k against k, and the arms' differences to the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from vfunc.report.drawing import INK, arm_style, legend, new_figure, save, tidy
from vfunc.report.seed_statistics import Interval
from vfunc.studies.curves.pass_statistics import PassAt


def draw_pass(curves: Mapping[str, Sequence[PassAt]], over: str, path: Path) -> None:
    """Pass@k of every arm, and beside it the paired differences where there is a baseline.

    Args:
        curves: by arm.
        over: what intervals are over: seeds or problems.
        path: the PNG to write.
    """
    apart = {arm: of for arm, of in curves.items() if all(one.difference is not None for one in of)}
    figure = new_figure(4.5 * (1 + bool(apart)), 3.7)
    panels = np.atleast_1d(figure.subplots(1, 1 + bool(apart)))
    for arm, of in curves.items():
        _draw(panels[0], arm, [(one.k, one.mean, one.interval) for one in of])
    panels[0].set_ylabel("Pass@k (%)")
    if apart:
        for arm, of in apart.items():
            points = [(one.k, one.difference or 0.0, one.difference_interval) for one in of]
            _draw(panels[1], arm, points)
        panels[1].axhline(0, color=INK, lw=0.8, zorder=0.5)
        panels[1].set_ylabel("Pass@k, arm minus baseline\n(percentage points)")
    most = max(one.k for of in curves.values() for one in of)
    ticks = [2**i for i in range(most.bit_length()) if 2**i <= most]
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:.0f}"))
        axes.set_xlabel("k, solutions that may be tried")
        tidy(axes)
    figure.supxlabel(f"bands: 95 % interval over {over}", fontsize=8.5, color=INK)
    legend(figure)
    save(figure, path)


def _draw(axes: Axes, arm: str, points: Sequence[tuple[int, float, Interval | None]]) -> None:
    colour, marker = arm_style(arm)
    at, means, intervals = zip(*points, strict=True)
    means = 100 * np.array(means)
    axes.plot(at, means, color=colour, marker=marker, markersize=4, lw=1.6, label=arm)
    if all(interval is not None for interval in intervals):
        low, high = 100 * np.array(intervals, dtype=float).T
        axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
