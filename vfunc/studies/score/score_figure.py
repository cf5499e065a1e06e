"""Draws the score: rank correlation against the horizon, a line for each estimator."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vfunc.report.drawing import INK, legend, new_figure, save, tidy
from vfunc.studies.score.scores import OTHER, SAME, Scored

_COLOURS = (
    "#0072b2",
    "#e69f00",
    "#009e73",
    "#cc79a7",
    "#56b4e9",
    "#d55e00",
    "#7b5ea7",
    "#8c6d1f",
    "#a3123a",
    "#1f6f6f",
)
_MARKERS = "osD^v<>Pphd"


def draw(settings: Sequence[tuple[str, Sequence[Scored]]], path: Path) -> None:
    """One panel a setting, of the effect on the held-out loss.

    Where an estimator is read in several ways, its value is drawn, or its slope where it has none.

    Args:
        settings: labels and scores.
        path: the PNG to write.
    """
    figure = new_figure(4.6 * len(settings) + 0.4, 4.6)
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    for axes, (label, scores) in zip(panels, settings, strict=True):
        on_test = [one for one in scores if one.measure == "test" and one.share is None]
        names = list(dict.fromkeys(one.row for one in on_test if one.row != "zero"))
        for number, row in enumerate(names):
            readings = {one.reading for one in on_test if one.row == row}
            reading = next(r for r in ("value", "slope", "objective", "") if r in readings)
            line = [one for one in on_test if (one.row, one.reading) == (row, reading)]
            known = row in (SAME, OTHER)
            axes.plot(
                [one.horizon for one in line],
                [one.agreement.spearman.value for one in line],
                color=INK if known else _COLOURS[number % len(_COLOURS)],
                ls="--" if known else "-",
                marker=_MARKERS[number % len(_MARKERS)],
                ms=4,
                lw=1.3,
                label=row,
            )
        axes.axhline(0, color="#999999", lw=0.8)
        axes.set_xscale("log", base=2)
        axes.set_xlabel("H, learner steps")
        axes.set_ylabel("Spearman's correlation, held-out loss")
        axes.set_ylim(-1.02, 1.02)
        if label:
            axes.set_title(label, fontsize=9.5)
        tidy(axes)
    legend(figure)
    save(figure, path)
