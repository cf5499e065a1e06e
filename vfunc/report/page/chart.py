"""Lays out charts: what the page draws as SVG, in numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.markers import MarkerStyle
from matplotlib.ticker import LogLocator, MaxNLocator

from vfunc.report.drawing import arm_style
from vfunc.report.page.series import Curve, Figure
from vfunc.report.table import si

WIDTH, HEIGHT = 400.0, 250.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 12.0, 12.0, 40.0
_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
DASHES = ("", "7 4", "2 3", "9 3 2 3", "4 2", "12 4")
"""Dash patterns of runs side by side, in their order; then from the first again."""
MOST_ROWS = 12
"""Rows of a chart's table."""


@dataclass(frozen=True)
class Tick:
    """A mark of an axis: its place in the drawing, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Line:
    """A curve as it is drawn; paths are SVG's `d`, "" where there is none.

    Attributes:
        label: run and arm, in words.
        arm: the arm.
        dash: dash pattern.
        line: the curve itself.
        faint: single steps behind it.
        band: standard error around it.
        marks: its points, for a curve of a few.
        last: its last figure, as written on the axis.
    """

    label: str
    arm: str
    dash: str
    line: str
    faint: str
    band: str
    marks: str
    last: str


@dataclass(frozen=True)
class Dot:
    """A point of a scatter, and what it says."""

    x: float
    y: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A chart with its numbers.

    Attributes:
        title: what it shows.
        x_label: the horizontal axis, in words.
        y_label: the vertical axis, in words.
        x_ticks: marks of the horizontal axis.
        y_ticks: marks of the vertical axis.
        zero: where 0 lies on the vertical axis, or None.
        lines: its curves.
        dots: points, of a scatter.
        diagonal: a line at equality, of a scatter.
        head: the head of its table.
        rows: the table's rows.
        note: a line below.
    """

    title: str
    x_label: str
    y_label: str
    x_ticks: Sequence[Tick]
    y_ticks: Sequence[Tick]
    zero: float | None
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    diagonal: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    note: str = ""

    @property
    def said(self) -> str:
        """What the chart shows, for those who do not see it."""
        if self.dots:
            return f"{self.y_label} against {self.x_label}, {len(self.dots)} points. {self.note}"
        last = "; ".join(f"{line.label}: {line.last} at the end" for line in self.lines)
        return f"{self.y_label} over {self.x_label}. {last}."


@dataclass(frozen=True)
class _Axis:
    """A stretch of numbers on a stretch of the drawing."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        low, high, value = (
            (math.log(v) for v in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return round(self.start + (value - low) / (high - low) * (self.end - self.start), 1)


def curve_chart(figure: Figure, curves: Sequence[Curve], runs: Sequence[str]) -> Chart:
    """Curves over learner steps.

    Args:
        figure: what they are of.
        curves: at least one.
        runs: names of all runs of the page, which give the dashes; more than one are named.
    """
    every_x = np.concatenate([c.x for c in curves])
    tops = [np.concatenate([c.y, *_edges(c)]) for c in curves]
    every_y = np.concatenate(tops)
    every_y = every_y[np.isfinite(every_y)]
    x = _axis(float(every_x.min()), float(every_x.max()), _LEFT, WIDTH - _RIGHT)
    least, most = float(every_y.min()), float(every_y.max())
    log = figure.key == "heldout_loss" and 0 < 4 * least < most
    low = min(least, 0.0) if figure.from_zero else least
    y = _axis(low, most, HEIGHT - _BOTTOM, _TOP, log=log)
    power, unit = _power(max(abs(y.low), abs(y.high)), figure.unit)
    lines = [_line(c, x, y, runs, power) for c in curves]
    return Chart(
        figure.title,
        "learner steps",
        figure.title + (f" ({unit})" if unit else ""),
        [Tick(x.at(v), si(v)) for v in _places(x, integer=True)],
        [Tick(y.at(v), _text(v, power)) for v in _places(y)],
        y.at(0.0) if y.low < 0 < y.high else None,
        lines,
        head=["steps", *(line.label for line in lines)],
        rows=_rows(curves, power),
        note="faint: single steps; line: a running mean"
        if any(line.faint for line in lines)
        else "",
    )


def scatter_chart(
    kind: str, predicted: Sequence[float], realised: Sequence[float], unit: str
) -> Chart:
    """Predicted against realised decreases, with the line where they are equal.

    Args:
        kind: the kind of step.
        predicted: a number a batch.
        realised: as many.
        unit: of both.
    """
    every = [*predicted, *realised]
    x = _axis(min(predicted), max(predicted), _LEFT, WIDTH - _RIGHT, margin=0.08)
    y = _axis(min(realised), max(realised), HEIGHT - _BOTTOM, _TOP, margin=0.08)
    power, unit = _power(max(abs(v) for v in every), "nats" if unit == "nat" else unit)
    said = f" ({unit})" if unit else ""
    low, high = max(x.low, y.low), min(x.high, y.high)
    diagonal = f"M{x.at(low)} {y.at(low)}L{x.at(high)} {y.at(high)}" if low < high else ""
    pairs = list(zip(predicted, realised, strict=True))
    texts = [(_text(p, power), _text(r, power)) for p, r in pairs]
    return Chart(
        kind,
        f"predicted decrease{said}",
        f"realised decrease{said}",
        [Tick(x.at(v), _text(v, power)) for v in _places(x)],
        [Tick(y.at(v), _text(v, power)) for v in _places(y)],
        y.at(0.0) if y.low < 0 < y.high else None,
        dots=[
            Dot(x.at(p), y.at(r), f"predicted {a}, realised {b}")
            for (p, r), (a, b) in zip(pairs, texts, strict=True)
        ],
        diagonal=diagonal,
        head=["predicted", "realised"],
        rows=texts,
        note="broken line: as predicted" if diagonal else "",
    )


def mark_of(arm: str) -> str:
    """An arm's marker around the origin, as an SVG path."""
    style = MarkerStyle(arm_style(arm)[1])
    path = style.get_path().transformed(style.get_transform())
    polygons = path.to_polygons(closed_only=False)
    largest = max(float(abs(p).max()) for p in map(np.asarray, polygons))
    return "".join(
        "M" + "L".join(f"{3.6 * px / largest:.1f} {-3.6 * py / largest:.1f}" for px, py in p) + "Z"
        for p in map(np.asarray, polygons)
    )


def _line(curve: Curve, x: _Axis, y: _Axis, runs: Sequence[str], power: int) -> Line:
    several = len(runs) > 1
    main = curve.mean if curve.mean.size else curve.y
    finite = main[np.isfinite(main)]
    return Line(
        f"{curve.run}: {curve.arm}" if several else curve.arm,
        curve.arm,
        DASHES[runs.index(curve.run) % len(DASHES)] if several else "",
        _path(curve.x, main, x, y),
        _path(curve.x, curve.y, x, y) if curve.mean.size and len(curve.x) > 20 else "",
        _band(curve, x, y),
        "" if curve.mean.size else _marks(curve, x, y),
        _text(float(finite[-1]), power) if finite.size else "none",
    )


def _edges(curve: Curve) -> list[np.ndarray]:
    return [curve.y - curve.reach, curve.y + curve.reach] if curve.reach.size else []


def _path(xs: np.ndarray, ys: np.ndarray, x: _Axis, y: _Axis) -> str:
    """Straight lines between points, broken where a figure is missing."""
    parts, pen = [], "M"
    for a, b in zip(xs.tolist(), ys.tolist(), strict=True):
        if math.isfinite(b):
            parts.append(f"{pen}{x.at(a)} {y.at(b)}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _band(curve: Curve, x: _Axis, y: _Axis) -> str:
    if not curve.reach.size:
        return ""
    known = np.isfinite(curve.reach) & np.isfinite(curve.y)
    xs, ys, reach = curve.x[known], curve.y[known], curve.reach[known]
    low = np.maximum(ys - reach, y.low)  # a logarithmic axis has no 0
    there = [f"{x.at(a)} {y.at(b)}" for a, b in zip(xs, ys + reach, strict=True)]
    back = [f"{x.at(a)} {y.at(b)}" for a, b in zip(xs[::-1], low[::-1], strict=True)]
    return "M" + "L".join([*there, *back]) + "Z"


def _marks(curve: Curve, x: _Axis, y: _Axis) -> str:
    """The places of a curve's markers, one a line."""
    pairs = zip(curve.x.tolist(), curve.y.tolist(), strict=True)
    return "\n".join(f"{x.at(a)} {y.at(b)}" for a, b in pairs if math.isfinite(b))


def _axis(
    low: float, high: float, start: float, end: float, *, log: bool = False, margin: float = 0.0
) -> _Axis:
    if low == high:
        reach = abs(low) * 0.1 or 1.0
        low, high = low - reach, high + reach
    reach = margin * (high - low)
    return _Axis(low - reach, high + reach, start, end, log)


def _places(axis: _Axis, *, integer: bool = False) -> list[float]:
    """Round numbers on an axis."""
    if axis.log:
        places = LogLocator(subs=(1, 2, 5), numticks=8).tick_values(axis.low, axis.high)
    else:
        locator = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=integer)
        places = locator.tick_values(axis.low, axis.high)
    slack = 1e-9 * (axis.high - axis.low)
    return [float(v) for v in places if axis.low - slack <= v <= axis.high + slack]


def _power(largest: float, unit: str) -> tuple[int, str]:
    """The power of ten that an axis is in units of, and the unit with it."""
    if not largest or 1e-2 <= largest < 1e5 or unit.endswith("per second"):
        return 0, unit
    power = 3 * math.floor(math.log10(largest) / 3)
    return power, f"10{str(power).translate(_SUPERSCRIPTS)} {unit}".rstrip()


def _text(value: float, power: int) -> str:
    scaled = value / 10.0**power
    if abs(scaled) >= 1000:
        return si(scaled)
    return f"{scaled:.4g}".replace("-", "−")


def _rows(curves: Sequence[Curve], power: int) -> list[list[str]]:
    """A chart's numbers at some of the steps, those of the first and the last among them."""
    steps = np.unique(np.concatenate([c.x for c in curves]))
    if len(steps) > MOST_ROWS:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, MOST_ROWS).round().astype(int))]
    rows = []
    for step in steps:
        cells = [f"{step:,.0f}"]
        for c in curves:
            main = c.mean if c.mean.size else c.y
            near = int(abs(c.x - step).argmin())
            inside = c.x.min() <= step <= c.x.max() and math.isfinite(main[near])
            exact = inside and (bool(c.mean.size) or c.x[near] == step)
            cells.append(_text(float(main[near]), power) if exact else "–")
        rows.append(cells)
    return rows
