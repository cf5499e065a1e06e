"""Draws segmentation against depth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vfunc.report.drawing import INK, arm_style, legend, new_figure, save, tidy
from vfunc.report.measures import Measures, name_of


@dataclass(frozen=True)
class Place:
    """A point of the figure.

    Attributes:
        arm: the arm.
        label: what stands beside it; "" is nothing.
        at: mIoU and RMSE.
        ends: lower and upper end of each.
        front: whether it is on the Pareto front.
    """

    arm: str
    label: str
    at: tuple[float, float]
    ends: tuple[tuple[float, float], tuple[float, float]]
    front: bool


def draw_trade_off(
    places: Sequence[Place], measures: Measures, names: tuple[str, str], path: Path
) -> None:
    """mIoU upwards, RMSE to the right: better is up and to the left.

    Args:
        places: the points.
        measures: the metrics.
        names: those of the two.
        path: the PNG to write.
    """
    up, right = (measures.metric(name) for name in names)
    ends = [end for place in places for end in place.ends]
    figure = new_figure(5.4, 4.4)
    axes = figure.subplots()
    front = sorted((p.at for p in places if p.front), key=lambda at: at[1])
    if len(front) > 1:
        y, x = np.array(front).T * np.array([[up.scale], [right.scale]])
        axes.plot(x, y, color=INK, lw=0.9, ls=(0, (4, 3)), zorder=1, label="Pareto front")
    named: set[str] = set()
    for number, place in enumerate(places):
        colour, marker = arm_style(place.arm)
        (y, x), ((bottom, top), (left, far)) = place.at, place.ends
        middle = (right.scale * x, up.scale * y)
        axes.errorbar(
            *middle,
            xerr=[[right.scale * (x - left)], [right.scale * (far - x)]],
            yerr=[[up.scale * (y - bottom)], [up.scale * (top - y)]],
            fmt="none",
            ecolor=colour,
            elinewidth=1.0,
            alpha=0.6,
        )
        axes.plot(
            *middle,
            marker,
            ms=7.5,
            color=colour,
            mfc=colour if place.front else "white",
            mew=1.4,
            ls="",
            label=None if place.arm in named else place.arm,
        )
        named.add(place.arm)
        if place.label:
            axes.annotate(
                place.label,
                middle,
                # neighbours in the list are often near one another
                xytext=(6, 5 if number % 2 else -12),
                textcoords="offset points",
                fontsize=8.5,
                color=INK,
            )
    axes.set_xlabel(f"{name_of(right)} of depth ({measures.unit_in_words(right)}), lower is better")
    axes.set_ylabel(f"{name_of(up)} ({measures.unit_in_words(up)}), higher is better")
    axes.margins(0.12)
    axes.set_title(
        "labels: weight of segmentation : weight of depth; filled: on the Pareto front"
        + ("\nbars: 95 % interval over seeds" if any(len(set(e)) > 1 for e in ends) else ""),
        fontsize=8.5,
        color=INK,
    )
    tidy(axes)
    axes.grid(axis="x", color="#e6e6e6", lw=0.6)
    legend(figure)
    save(figure, path)
