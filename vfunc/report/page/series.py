"""Takes the curves of runs out of their events: a figure, and a curve for each run and arm."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vfunc.modality import Metric
from vfunc.report.measures import LOSS, Measures, arrow, name_of
from vfunc.report.page.run_facts import RunFacts
from vfunc.report.plots import running_mean

MOST_POINTS = 240
"""Points of a curve; longer ones are drawn by means of stretches."""


@dataclass(frozen=True)
class Figure:
    """What a chart shows.

    Attributes:
        key: its name in events.
        kind: the kind of event that holds it.
        title: in words.
        unit: of the axis; may be empty.
        scale: factor from events to the axis.
        error: the name of its standard error in events, or "".
        from_zero: whether the axis begins at 0.
    """

    key: str
    kind: str
    title: str
    unit: str = ""
    scale: float = 1.0
    error: str = ""
    from_zero: bool = False


@dataclass(frozen=True)
class Curve:
    """A figure of one arm of one run.

    Attributes:
        run: the run's name.
        arm: the arm's.
        x: learner steps.
        y: the figure there.
        reach: half the height of a band around it, or nothing.
        mean: a running mean, where the figure is that of single steps; else nothing.
    """

    run: str
    arm: str
    x: np.ndarray
    y: np.ndarray
    reach: np.ndarray = field(default_factory=lambda: np.empty(0))
    mean: np.ndarray = field(default_factory=lambda: np.empty(0))


def figures_of(measures: Measures) -> list[Figure]:
    """The figures that a run's curves are of, in the order to show them."""
    unit = _plural(measures.loss_unit)
    followed = [
        Figure(
            _key(metric),
            "evaluation",
            f"{name_of(metric)} {arrow(metric)}",
            measures.unit_in_words(metric),
            metric.scale,
            f"{metric.name}_standard_error",
        )
        for metric in measures.metrics
    ]
    return [
        *followed,
        Figure("train_loss", "step", "training loss", unit),
        Figure("value", "step", "value: predicted decrease", unit),
        Figure("objective", "step", "designer's objective"),
        Figure("gate", "step", "mean gate α", from_zero=True),
        Figure("kept", "step", "mean share kept μ", from_zero=True),
        Figure("units_a_second", "step", "speed", f"{measures.unit} per second", from_zero=True),
    ]


def curves_of(figure: Figure, runs: Sequence[RunFacts]) -> list[Curve]:
    """A figure's curves, in the order of runs and of arms in their logs; without empty ones."""
    found = []
    for run in runs:
        events = [e for e in run.events if e["kind"] == figure.kind]
        if figure.key == "objective":  # where it is the value there is nothing to see
            events = [e for e in events if e.get("objective") != e.get("value")]
        by_arm: dict[str, list[Mapping[str, Any]]] = {}
        for e in events:
            if number(e.get(figure.key)) is not None and number(e.get("step")) is not None:
                by_arm.setdefault(e["arm"], []).append(e)
        found += [_curve(figure, run.name, arm, of) for arm, of in by_arm.items()]
    return found


def number(value: Any) -> float | None:
    """A figure of an event as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def _curve(figure: Figure, run: str, arm: str, events: Sequence[Mapping[str, Any]]) -> Curve:
    def column(key: str) -> np.ndarray:
        numbers = [number(e.get(key)) for e in events]
        return np.array([math.nan if n is None else n for n in numbers])

    x, y = column("step"), figure.scale * column(figure.key)
    if figure.kind != "step":
        reach = figure.scale * column(figure.error) if figure.error else np.empty(0)
        return Curve(run, arm, x, y, reach if np.isfinite(reach).any() else np.empty(0))
    mean = running_mean(y)
    if len(x) > MOST_POINTS:
        x, y, mean = (_thinned(column) for column in (x, y, mean))
    return Curve(run, arm, x, y, mean=mean)


def _thinned(column: np.ndarray) -> np.ndarray:
    return np.array([part.mean() for part in np.array_split(column, MOST_POINTS)])


def _key(metric: Metric) -> str:
    return "heldout_loss" if metric.name == LOSS else metric.name


def _plural(unit: str) -> str:
    return "nats" if unit == "nat" else unit
