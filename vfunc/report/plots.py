"""Draws a run as PNG figures: curves per arm, the designer's signal, the one-step probe.

The token value map is in `token_map.py`, the comparison over seeds in `seed_figures.py`.

Curves are drawn from events (see `events.py`), mappings that hold `arm`, `step` and, each where it
was measured: `tokens` (`images`), `heldout_loss`, a metric by its name and its standard error by
`<name>_standard_error`, `value`, `objective`, `gate`, `kept`. An event without the figure that a
panel shows is passed over, whatever its kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.ticker import FuncFormatter, MaxNLocator
from scipy import stats

from vfunc.errors import UserError
from vfunc.modality import Metric
from vfunc.report.drawing import INK, arm_style, legend, log_if_wide, new_figure, save, tidy
from vfunc.report.measures import LOSS, Measures, name_of
from vfunc.report.table import si
from vfunc.typecheck import typed

Number = float | int
Event = Mapping[str, Any]


@typed
def learning_curves(
    events: Sequence[Event],
    path: Path | str,
    measures: Measures,
    *,
    against: Literal["steps", "units"] = "steps",
) -> None:
    """Held-out loss, and every other metric that was followed, of every arm as training goes on.

    A metric that no arm was measured in at several places has no curve and no panel. The band is
    one standard error over examples. The loss is drawn on a logarithmic scale where it spans more
    than a factor of four.

    Args:
        events: events of a run; those that hold `heldout_loss` or another metric are drawn.
        path: the PNG to write.
        measures: the run's metrics.
        against: the horizontal axis: learner steps, or tokens (images).

    Raises:
        UserError: there is no curve, or an event lacks its place on the axis.
        OSError: the file cannot be written.
    """
    x = "step" if against == "steps" else measures.unit
    figures = {metric: _figure_of(metric) for metric in measures.metrics}
    panels = [(metric, name) for metric, name in figures.items() if _is_curve(events, name)]
    if not panels:
        known = ", ".join(figures.values())
        raise UserError(f"no evaluation to draw: no event holds any of {known}.")
    columns = len(panels) if len(panels) <= 3 else math.ceil(len(panels) / 2)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(3.9 * columns + 0.3, 3.5 if rows == 1 else 3.0 * rows + 0.5)
    places = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for empty in places[len(panels) :]:
        empty.remove()
    for axes, (metric, name) in zip(places, panels, strict=False):
        for arm in _arms(events, name):
            colour, marker = arm_style(arm)
            at, y = _curve(events, arm, x, name)
            y = metric.scale * y
            axes.plot(at, y, color=colour, marker=marker, markersize=4, lw=1.6, label=arm)
            _, errors = _curve(events, arm, x, f"{metric.name}_standard_error", where=name)
            reach = metric.scale * errors
            axes.fill_between(at, y - reach, y + reach, color=colour, alpha=0.15, lw=0)
        axes.set_xlabel("learner steps" if against == "steps" else f"{measures.unit} read")
        unit = measures.unit_in_words(metric)
        axes.set_ylabel(name_of(metric) + (f" ({unit})" if unit else ""))
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: si(number)))
        if metric.name == LOSS:
            log_if_wide(axes)
        tidy(axes)
    legend(figure)
    save(figure, path)


@typed
def value_curves(events: Sequence[Event], path: Path | str, *, unit: str) -> None:
    """Draw value, gate (or kept share) and objective over steps, for arms that have them.

    Gate is the mean gate, kept share the mean share of a view that a mask keeps. Thin lines are
    as measured, thick ones a running mean over a twentieth of the run.

    Args:
        events: events of a run; those that hold `value`, `gate`, `kept` or `objective` are drawn.
        path: the PNG to write.
        unit: unit of the loss, as in "nat"; empty where it has none.

    Raises:
        UserError: no event holds any of them, or one of them lacks its step.
        OSError: the file cannot be written.
    """
    labels = {
        "value": "value: predicted\ndecrease" + (f" ({_plural(unit)})" if unit else ""),
        "gate": "mean gate α",
        "kept": "mean share\nkept μ",
        "objective": "designer's\nobjective",
    }
    panels = [name for name in labels if _arms(events, name)]
    if not panels:
        raise UserError(f"no value to draw: no event holds {', '.join(labels)}.")
    figure = new_figure(6.5, 1.75 * len(panels) + 0.8)
    rows = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
    for axes, name in zip(rows, panels, strict=True):
        for arm in _arms(events, name):
            colour, _ = arm_style(arm)
            at, figures = _curve(events, arm, "step", name)
            axes.plot(at, figures, color=colour, lw=0.6, alpha=0.35)
            axes.plot(at, running_mean(figures), color=colour, lw=1.8, label=arm)
        if name in ("gate", "kept"):
            axes.set_ylim(bottom=0)
        else:
            axes.axhline(0, color=INK, lw=0.6, zorder=0)
            axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        axes.set_ylabel(labels[name])
        tidy(axes)
    rows[-1].set_xlabel("learner steps")
    figure.align_ylabels(rows)
    legend(figure)
    save(figure, path)


@typed
def probe_scatter(
    probes: Mapping[str, tuple[Sequence[Number], Sequence[Number]]],
    path: Path | str,
    *,
    unit: str,
    told: Mapping[str, str] | None = None,
) -> None:
    """Predicted against realised decrease of the feedback loss, a panel for each kind of step.

    Args:
        probes: for each kind of step the predicted and the realised decreases, a number a batch.
        path: the PNG to write.
        unit: unit of the decreases, as in "nat"; empty where they have none.
        told: what is said of a kind of step in place of Pearson's r and the number of batches.

    Raises:
        UserError: nothing to draw, unequal lengths, or a decrease that is not finite.
        OSError: the file cannot be written.
    """
    if not probes:
        raise UserError("no probe to draw.")
    figure = new_figure(3.1 * len(probes) + 0.2, 3.4)
    panels = np.atleast_1d(figure.subplots(1, len(probes)))
    for axes, (kind, decreases) in zip(panels, probes.items(), strict=True):
        predicted, realised = (np.asarray(numbers, dtype=float) for numbers in decreases)
        if len(predicted) != len(realised) or not len(predicted):
            raise UserError(
                f"probe {kind!r}: {len(predicted)} predicted and {len(realised)} realised "
                "decreases; there must be as many of each, and at least one."
            )
        if not (np.isfinite(predicted).all() and np.isfinite(realised).all()):
            raise UserError(f"probe {kind!r}: a decrease that is not finite.")
        largest = max(abs(predicted).max(), abs(realised).max())
        exponent = 3 * math.floor(math.log10(largest) / 3) if largest > 0 else 0
        power = "" if exponent == 0 else rf"$10^{{{exponent}}}$"
        in_units = " ".join(part for part in (power, _plural(unit)) if part)
        shown = f" ({in_units})" if in_units else ""
        colour, _ = arm_style("vpretraining")
        dots = {"s": 26, "color": colour, "alpha": 0.75, "linewidths": 0.6}
        axes.scatter(predicted / 10.0**exponent, realised / 10.0**exponent, ec="white", **dots)
        axes.axhline(0, color="#cccccc", lw=0.8, zorder=0)
        axes.axline((0, 0), slope=1, color=INK, lw=1, ls=(0, (4, 3)), zorder=0.5)
        constant = len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(realised) == 0
        pearson: Any = None if constant else stats.pearsonr(predicted, realised)
        r = "undefined" if constant else f"{pearson.statistic:.3f}"
        said = (told or {}).get(kind, f"Pearson r = {r}, n = {len(predicted)}")
        axes.set_title(f"{kind}\n{said}", fontsize=9.5, color=INK)
        axes.set_xlabel(f"predicted decrease{shown}")
        axes.set_ylabel(f"realised decrease{shown}")
        axes.margins(0.08)
        tidy(axes)
    save(figure, path)


def _plural(unit: str) -> str:
    return "nats" if unit == "nat" else unit


def _figure_of(metric: Metric) -> str:
    """The key of a metric in events."""
    return "heldout_loss" if metric.name == LOSS else metric.name


def _is_curve(events: Sequence[Event], figure: str) -> bool:
    """Whether a figure is followed: the loss always is, others may be measured at the end alone."""
    places = {(e["arm"], e.get("step")) for e in events if e.get(figure) is not None}
    several = len(places) > len({arm for arm, _ in places})
    return several or (figure == "heldout_loss" and bool(places))


def _arms(events: Sequence[Event], figure: str) -> list[str]:
    """The arms for which a figure was measured, in order of appearance."""
    return list(dict.fromkeys(event["arm"] for event in events if event.get(figure) is not None))


def _curve(
    events: Sequence[Event], arm: str, x: str, figure: str, where: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """A figure of an arm by its place; nan where it is missing from an event that holds `where`."""
    held = where or figure
    points = [event for event in events if event["arm"] == arm and event.get(held) is not None]
    for event in points:
        if event.get(x) is None:
            raise UserError(f"an event of arm {arm!r} holds {held} but no {x} to draw it at.")
    figures = [event.get(figure) for event in points]
    numbers = [math.nan if number is None else float(number) for number in figures]
    return np.array([float(event[x]) for event in points]), np.array(numbers)


@typed
def running_mean(figures: np.ndarray) -> np.ndarray:
    """A centred mean over a twentieth of the curve, of what there is at its ends."""
    width = max(1, len(figures) // 20)
    kernel = np.ones(2 * width + 1)
    known = np.isfinite(figures)
    total = np.convolve(np.where(known, figures, 0), kernel, "full")[width:-width]
    count = np.convolve(known.astype(float), kernel, "full")[width:-width]
    return np.divide(total, count, out=np.full(len(figures), math.nan), where=count > 0)
