"""Shows the comparison over seeds: a table for each metric, and one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from rich import box
from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.modality import Metric
from vfunc.printable import printable
from vfunc.report.drawing import arm_style
from vfunc.report.measures import LOSS, Measures, name_of, written
from vfunc.report.seed_statistics import ArmOverSeeds, Difference, Interval
from vfunc.report.table import BASELINE, LEVEL, NONE, p_text, told_among
from vfunc.typecheck import typed


@typed
def comparison_table(
    arms: Sequence[ArmOverSeeds], measures: Measures, name: str, *, primary: bool
) -> Table:
    """The arms in one metric, at most 100 columns wide.

    Args:
        arms: results of `compare_over_seeds`.
        measures: the metrics.
        name: name of the metric.
        primary: whether it is the primary metric, whose table has the speed as well.

    Returns:
        A table for rich to print; a setting has a line of its own above its arms.

    Raises:
        UserError: no arms, or one that lacks the metric.
    """
    _require(arms, name)
    metric = measures.metric(name)
    measured = [arm.metrics[name] for arm in arms]
    compares = any(m.difference for m in measured)
    way = any(m.way is not None for m in measured)
    speed = primary and any(arm.speed for arm in arms)
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)
    counts = {len(arm.seeds) for arm in arms}
    seeds = f", {len(arms[0].seeds)} seeds" if len(counts) == 1 and counts != {1} else ""
    table.title = f"{_label(metric, measures)} ({'primary' if primary else 'secondary'}{seeds})"
    table.title_justify = table.caption_justify = "left"
    table.add_column("arm", max_width=22, overflow="fold")
    headers = ["seeds"] if len(counts) > 1 else []
    headers += ["mean"]
    headers += ["against\nbaseline", "p", "better\nin"] if compares else []
    headers += ["way\n%"] if way else []
    gap = primary and any(arm.gap for arm in arms)
    headers += ["value\n%"] if gap else []
    scored = [arm.fidelity for arm in arms if arm.fidelity is not None] if primary else []
    headers += [f"score\nH={scored[0].horizon}"] if scored else []
    headers += [f"{measures.unit}/s\nratio"] if speed else []
    for header in headers:
        table.add_column(header, justify="right", no_wrap=True)
    for index, (arm, m) in enumerate(zip(arms, measured, strict=True)):
        if arm.setting and (not index or arms[index - 1].setting != arm.setting):
            table.add_row(Text(arm.setting, style="italic"), *[""] * len(headers))
        cells = [arm.arm, str(len(arm.seeds))] if len(counts) > 1 else [arm.arm]
        cells.append(_with_reach(metric, m.mean, m.interval))
        if compares:
            cells += _against(metric, m.difference)
        if way:
            cells.append(NONE if m.way is None else str(round(100 * m.way)))
        if gap:
            cells.append(NONE if arm.gap is None else str(round(100 * arm.gap.mean)))
        if scored:
            cells.append(NONE if arm.fidelity is None else f"{arm.fidelity.value:.2f}")
        if speed:
            cells.append(NONE if arm.speed is None else f"{arm.speed.mean:.2f}")
        table.add_row(*(Text(cell) for cell in cells))
    notes = _notes(arms, metric, compares, way)
    if scored:
        notes.append("score: Spearman, predicted and realised effect of a task")
    if gap:
        notes.append("value: from the text's to the oracle's, halfway")
    table.caption = Text("; ".join(notes), style="dim")
    return table


@typed
def comparison_plot(
    arms: Sequence[ArmOverSeeds], measures: Measures, primary: str, path: Path | str
) -> None:
    """Draw every arm in every metric: a pale dot a seed, the mean, and its interval.

    Args:
        arms: results of `compare_over_seeds`.
        measures: the metrics.
        primary: the metric of the first panel.
        path: the PNG to write.

    Raises:
        UserError: no arms, or one that lacks the primary metric.
        OSError: the file cannot be written.
    """
    _require(arms, primary)
    names = sorted(arms[0].metrics, key=lambda name: name != primary)
    metrics = [measures.metric(name) for name in names]
    rows: list[ArmOverSeeds | str] = []
    for index, arm in enumerate(arms):
        if arm.setting and (not index or arms[index - 1].setting != arm.setting):
            rows.append(arm.setting)
        rows.append(arm)
    size = (3.6 * len(metrics) + 2.0, 0.34 * len(rows) + 1.4)
    figure = Figure(size, layout=ConstrainedLayoutEngine(w_pad=0.12))
    FigureCanvasAgg(figure)
    figure.suptitle(
        "pale dots: seeds; marker and bar: mean and 95 % interval; dashed: mean of the baseline",
        fontsize=8.5,
        color="#333333",
    )
    panels = np.atleast_1d(figure.subplots(1, len(metrics), sharey=True))
    for axes, metric in zip(panels, metrics, strict=True):
        for y, row in enumerate(rows):
            if isinstance(row, ArmOverSeeds):
                _draw(axes, row, metric, y)
        _baselines(axes, rows, metric)
        values = [value for arm in arms for value in arm.metrics[metric.name].values]
        if metric.name == LOSS and min(values) > 0 and max(values) / min(values) > 4:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
            axes.xaxis.set_minor_formatter(NullFormatter())
        else:
            axes.locator_params(axis="x", nbins=6)
        rank = "" if metric.name == primary else " (secondary)"
        axes.set_xlabel(_label(metric, measures) + rank, fontsize=9)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.grid(axis="x", color="#e6e6e6", lw=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=8.5, left=False)
    labels = [printable(row if isinstance(row, str) else row.arm) for row in rows]
    panels[0].set_yticks(range(len(rows)), labels)
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    for label, row in zip(panels[0].get_yticklabels(), rows, strict=True):
        label.set(style="italic" if isinstance(row, str) else "normal", parse_math=False)
    figure.savefig(Path(path), format="png", dpi=200, facecolor="white")


def _draw(axes: Axes, arm: ArmOverSeeds, metric: Metric, y: int) -> None:
    colour, marker = arm_style(arm.arm)
    m, scale = arm.metrics[metric.name], metric.scale
    # dots that coincide stay to be seen, and below the mean
    places = y + 0.22 + 0.06 * (np.arange(len(m.values)) % 3 - 1)
    axes.scatter(scale * np.array(m.values), places, s=13, color=colour, alpha=0.45, lw=0)
    if m.interval:
        axes.plot(scale * np.array(m.interval), [y, y], color=colour, lw=1.8)
    axes.plot(scale * m.mean, y, marker, color=colour, ms=6.5, mec="white", mew=0.7)


def _baselines(axes: Axes, rows: Sequence[ArmOverSeeds | str], metric: Metric) -> None:
    """A line at each setting's baseline, along its arms."""
    for setting in dict.fromkeys(row.setting for row in rows if isinstance(row, ArmOverSeeds)):
        of = [(y, r) for y, r in enumerate(rows) if not isinstance(r, str) and r.setting == setting]
        for _, row in of:
            if row.arm == BASELINE:
                x = metric.scale * row.metrics[metric.name].mean
                ends = [of[0][0] - 0.4, of[-1][0] + 0.4]
                axes.plot([x, x], ends, "--", color="#999999", lw=0.9, zorder=0)


def _require(arms: Sequence[ArmOverSeeds], metric: str) -> None:
    if not arms:
        raise UserError("no arms to compare.")
    if metric not in arms[0].metrics:
        known = " and ".join(arms[0].metrics)
        raise UserError(f"{metric} is not in all of the runs; {known} can be compared.")


def _label(metric: Metric, measures: Measures) -> str:
    unit = measures.unit_in_words(metric)
    return name_of(metric) + (f", {unit}" if unit else "")


def _with_reach(metric: Metric, mean: float, interval: Interval | None, sign: str = "") -> str:
    text = written(metric, mean, sign)
    if interval is None:
        return text
    return text + f" ± {written(metric, (interval[1] - interval[0]) / 2)}"


def _against(metric: Metric, d: Difference | None) -> list[str]:
    if d is None:
        return [NONE] * 3
    reach = _with_reach(metric, d.mean, d.interval, "+")
    return [reach, p_text(d.p_value_holm), f"{d.better}/{d.seeds}"]


def _notes(arms: Sequence[ArmOverSeeds], metric: Metric, compares: bool, way: bool) -> list[str]:
    several = any(len(arm.seeds) > 1 for arm in arms)
    notes = ["±: 95 % interval over seeds"] if several else []
    differences = [d for arm in arms if (d := arm.metrics[metric.name].difference)]
    if any(d.p_value is not None for d in differences):
        count = sum(d.seeds > 1 for d in differences)
        notes.append(f"p: paired t, Holm over {count}" if count > 1 else "p: paired t")
        notes.append(f"n.s.: p > {LEVEL}")
    if any(d.seeds > 1 and d.p_value is None for d in differences):
        notes.append("no p where all seeds differ by the same")
    if compares:
        notes.append("higher is better" if metric.higher_is_better else "lower is better")
    if way:
        told = told_among(arm.arm for arm in arms)
        notes.append(f"way: from {BASELINE} to {told}")
    if not several:
        notes.append("one seed: no interval over seeds, and no test")
    return notes
