"""Pictures of a run, as PNG: curves per arm, the designer's signal, the one-step probe.

Figures are made without pyplot, so that nothing global changes and no display is needed. An arm has
the same colour and marker in every picture, in a palette that colour-blind readers can tell apart
(Okabe and Ito 2008). The token value map is in `token_map.py`.

Curves are drawn from events (see `events.py`), mappings that hold `arm`, `step` and, each where it
was measured: `tokens`, `heldout_loss`, `pass_at_1`, `pass_at_1_error`, `value`, `gate`,
`objective`. An event without the figure that a panel shows is passed over, whatever its kind.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from scipy import stats

from vfunc.errors import UserError
from vfunc.report.table import si
from vfunc.typecheck import typed

Number = float | int
Event = Mapping[str, Any]

_DPI = 200
_INK = "#333333"
_STYLES = {
    "baseline": ("#4d4d4d", "o"),
    "vpretraining": ("#0072b2", "s"),
    "random_feedback": ("#e69f00", "^"),
    "uniform_smoothing": ("#cc79a7", "v"),
    "self_distillation": ("#56b4e9", "D"),
    "confidence_gate": ("#d55e00", "P"),
    "known_wrong": ("#009e73", "X"),
}
_OTHER_STYLES = (("#7b5ea7", "<"), ("#8c6d1f", ">"), ("#a3123a", "h"), ("#1f6f6f", "d"))


@typed
def arm_style(arm: str) -> tuple[str, str]:
    """The colour and marker of an arm, by its name alone, so that all pictures agree."""
    other = _OTHER_STYLES[zlib.crc32(arm.encode()) % len(_OTHER_STYLES)]
    return _STYLES.get(arm, other)


@typed
def learning_curves(
    events: Sequence[Event], path: Path | str, *, against: Literal["steps", "tokens"] = "steps"
) -> None:
    """Held-out loss and, where it was measured, Pass@1 of every arm as training goes on.

    The band is one standard error over problems. The loss is drawn on a logarithmic scale where
    it spans more than a factor of four.

    Args:
        events: of a run; those that hold `heldout_loss` or `pass_at_1` are drawn.
        path: the PNG to write.
        against: the horizontal axis.

    Raises:
        UserError: no event holds either, or one of them lacks its place on the axis.
        OSError: the file cannot be written.
    """
    x = {"steps": "step", "tokens": "tokens"}[against]
    panels = [name for name in ("heldout_loss", "pass_at_1") if _arms(events, name)]
    if not panels:
        raise UserError("no evaluation to draw: no event holds heldout_loss or pass_at_1.")
    figure = _figure(3.9 * len(panels) + 0.3, 3.5)
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(panels))), panels, strict=True):
        scale = 100 if name == "pass_at_1" else 1
        for arm in _arms(events, name):
            colour, marker = arm_style(arm)
            at, figures = _curve(events, arm, x, name)
            axes.plot(
                at, scale * figures, color=colour, marker=marker, markersize=4, lw=1.6, label=arm
            )
            _, errors = _curve(events, arm, x, f"{name}_error", where=name)
            low, high = scale * (figures - errors), scale * (figures + errors)
            axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
        axes.set_xlabel("learner steps" if against == "steps" else "tokens read")
        axes.set_ylabel("Pass@1 (%)" if name == "pass_at_1" else "held-out loss (nats per token)")
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: si(number)))
        if name == "heldout_loss":
            _log_if_wide(axes)
        _tidy(axes)
    _legend(figure)
    _save(figure, path)


@typed
def value_curves(events: Sequence[Event], path: Path | str) -> None:
    """Value, mean gate and the designer's objective over steps, for every arm that has them.

    Thin lines are what was measured, thick ones a running mean over a twentieth of the run.

    Args:
        events: of a run; those that hold `value`, `gate` or `objective` are drawn.
        path: the PNG to write.

    Raises:
        UserError: no event holds any of them, or one of them lacks its step.
        OSError: the file cannot be written.
    """
    labels = {
        "value": "value: predicted\ndecrease (nats)",
        "gate": "mean gate α",
        "objective": "designer's\nobjective",
    }
    panels = [name for name in labels if _arms(events, name)]
    if not panels:
        raise UserError("no value to draw: no event holds value, gate or objective.")
    figure = _figure(6.5, 1.75 * len(panels) + 0.8)
    rows = np.atleast_1d(figure.subplots(len(panels), 1, sharex=True))
    for axes, name in zip(rows, panels, strict=True):
        for arm in _arms(events, name):
            colour, _ = arm_style(arm)
            at, figures = _curve(events, arm, "step", name)
            axes.plot(at, figures, color=colour, lw=0.6, alpha=0.35)
            axes.plot(at, _running_mean(figures), color=colour, lw=1.8, label=arm)
        if name == "gate":
            axes.set_ylim(bottom=0)
        else:
            axes.axhline(0, color=_INK, lw=0.6, zorder=0)
            axes.ticklabel_format(axis="y", scilimits=(-2, 3), useMathText=True)
        axes.set_ylabel(labels[name])
        _tidy(axes)
    rows[-1].set_xlabel("learner steps")
    figure.align_ylabels(rows)
    _legend(figure)
    _save(figure, path)


@typed
def probe_scatter(
    probes: Mapping[str, tuple[Sequence[Number], Sequence[Number]]], path: Path | str
) -> None:
    """Predicted against realised decrease of the feedback loss, a panel for each kind of step.

    Args:
        probes: for each kind of step the predicted and the realised decreases, nats, a number a
            batch.
        path: the PNG to write.

    Raises:
        UserError: nothing to draw, unequal lengths, or a decrease that is not finite.
        OSError: the file cannot be written.
    """
    if not probes:
        raise UserError("no probe to draw.")
    figure = _figure(3.1 * len(probes) + 0.2, 3.4)
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
        unit = "nats" if exponent == 0 else rf"$10^{{{exponent}}}$ nats"
        colour, _ = arm_style("vpretraining")
        dots = {"s": 26, "color": colour, "alpha": 0.75, "linewidths": 0.6}
        axes.scatter(predicted / 10.0**exponent, realised / 10.0**exponent, ec="white", **dots)
        axes.axhline(0, color="#cccccc", lw=0.8, zorder=0)
        axes.axline((0, 0), slope=1, color=_INK, lw=1, ls=(0, (4, 3)), zorder=0.5)
        constant = len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(realised) == 0
        r = "undefined" if constant else f"{stats.pearsonr(predicted, realised).statistic:.3f}"
        axes.set_title(f"{kind}\nPearson r = {r}, n = {len(predicted)}", fontsize=9.5, color=_INK)
        axes.set_xlabel(f"predicted decrease ({unit})")
        axes.set_ylabel(f"realised decrease ({unit})")
        axes.margins(0.08)
        _tidy(axes)
    _save(figure, path)


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Figure, path: Path | str) -> None:
    figure.savefig(Path(path), format="png", dpi=_DPI, facecolor="white")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors=_INK)
    axes.xaxis.label.set(fontsize=9.5, color=_INK)
    axes.yaxis.label.set(fontsize=9.5, color=_INK)


def _legend(figure: Figure) -> None:
    """One legend above all panels, with every arm that any of them shows."""
    entries = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = min(len(entries), 4)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=_INK,
    )


def _log_if_wide(axes: Axes) -> None:
    drawn = np.concatenate([line.get_ydata() for line in axes.lines])
    drawn = drawn[np.isfinite(drawn)]
    if not drawn.size or drawn.min() <= 0 or drawn.max() / drawn.min() <= 4:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


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


def _running_mean(figures: np.ndarray) -> np.ndarray:
    """A centred mean over a twentieth of the curve, of what there is at its ends."""
    width = max(1, len(figures) // 20)
    kernel = np.ones(2 * width + 1)
    known = np.isfinite(figures)
    total = np.convolve(np.where(known, figures, 0), kernel, "full")[width:-width]
    count = np.convolve(known.astype(float), kernel, "full")[width:-width]
    return np.divide(total, count, out=np.full(len(figures), math.nan), where=count > 0)
