"""Table of a run's arms side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.modality import Metric
from vfunc.report.measures import LOSS, Measures, name_of, written
from vfunc.report.table import (
    BASELINE,
    LEVEL,
    NONE,
    WIDTH,
    captioned,
    empty_table,
    si,
    told_among,
    width_of,
)
from vfunc.typecheck import typed


@dataclass(frozen=True)
class Against:
    """An arm against the baseline, over the same examples.

    Attributes:
        difference: the mean over examples of the arm's number minus the baseline's.
        error: standard error of that mean.
        p_value: two-sided p value of the paired comparison (adjusted, where several are made).
    """

    difference: float
    error: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class ArmRow:
    """The results of an arm.

    Attributes:
        arm: the arm's name.
        steps: learner steps taken.
        units: tokens (images) read; tokens with prompts, without padding.
        units_per_second: units read per second of the time that the budget counts.
        figures: figures by metric, as measured: a share is 0 to 1. A metric that was not
            measured is missing.
        errors: standard errors over examples by metric, where there are any.
        against: comparisons with the baseline by metric; empty for the baseline.
    """

    arm: str
    steps: int
    units: int
    units_per_second: float
    figures: Mapping[str, float]
    errors: Mapping[str, float] = field(default_factory=dict)
    against: Mapping[str, Against] = field(default_factory=dict)


@typed
def arms_table(rows: Sequence[ArmRow], measures: Measures, *, share_of: str = LOSS) -> Table:
    """The arms of a run side by side: 80 columns wide at most, with up to four metrics.

    Where `baseline` and an arm that is told what is right (`TOLD`) are both among the arms, a last
    column tells which share of the way from the one to the other each arm went. The comparison with
    the baseline is in the table where there is one metric besides the loss, and needs
    `baseline_table` where there are several.

    Args:
        rows: the arms, in the order to show.
        measures: the metrics.
        share_of: the metric in which the way is measured.

    Returns:
        A table for rich to print, a column for each metric that was measured; "n.s." marks a
        difference whose p value is above 0.05. Standard errors are left out where several metrics
        leave no room for them.

    Raises:
        UserError: no rows, or no such metric.
    """
    if not rows:
        raise UserError("no arms to put into a table.")
    table = _arms_table(rows, measures, share_of, errors=True)
    if len(judged(rows, measures)) > 1 and width_of(table) > WIDTH:
        table = _arms_table(rows, measures, share_of, errors=False)
    return table


@typed
def measured(rows: Sequence[ArmRow], measures: Measures) -> tuple[Metric, ...]:
    """The metrics that some arm was measured in."""
    return measures.among({name for row in rows for name in row.figures})


@typed
def judged(rows: Sequence[ArmRow], measures: Measures) -> tuple[Metric, ...]:
    """The metrics besides the loss that some arm was measured in."""
    return tuple(m for m in measured(rows, measures) if m.name != LOSS)


@typed
def with_error(found: Against, metric: Metric) -> str:
    """A difference with its sign, and its standard error where there is one."""
    error = "" if found.error is None else f" ± {written(metric, found.error)}"
    return written(metric, found.difference, "+") + error


def _arms_table(
    rows: Sequence[ArmRow], measures: Measures, share_of: str, *, errors: bool
) -> Table:
    shares = _shares(rows, measures.metric(share_of).name)
    metrics, others = measured(rows, measures), judged(rows, measures)
    compared = others[0] if len(others) == 1 else None
    if not any(compared and compared.name in row.against for row in rows):
        compared = None
    table = empty_table()
    table.add_column("arm", no_wrap=True)
    unit = measures.unit
    for header in ("steps", unit, f"{unit}\nper s", *(metric.title for metric in metrics)):
        table.add_column(header, justify="right", no_wrap=True)
    if compared:
        table.add_column("against\nbaseline", justify="left", no_wrap=True)
    if shares:
        table.add_column("way\n%", justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        cells = [row.arm, f"{row.steps:,}", si(row.units), si(row.units_per_second)]
        cells += [_figure(row, metric, error=errors) for metric in metrics]
        if compared:
            cells.append(_difference(row, compared))
        if shares:
            share = shares[index]
            cells.append(NONE if share is None else f"{100 * share + 0.0:.0f}")
        table.add_row(*(Text(cell) for cell in cells))
    notes = []
    if errors and any(metric.name in row.errors for row in rows for metric in metrics):
        notes.append(f"± standard error over {measures.example}s")
    if compared:
        notes.append(f"n.s.: p > {LEVEL}, paired")
        # a share of pixels over all pictures is not the mean of its pictures
        notes += [] if unit == "tokens" else [f"against baseline: mean per {measures.example}"]
    if shares:
        figure = name_of(measures.metric(share_of))
        told = told_among(row.arm for row in rows)
        notes.append(f"way: from {BASELINE} to {told} in {figure}")
    return captioned(table, notes)


def _figure(row: ArmRow, metric: Metric, *, error: bool) -> str:
    if metric.name not in row.figures:
        return NONE
    text = written(metric, row.figures[metric.name])
    if error and metric.name in row.errors:
        text += f" ± {written(metric, row.errors[metric.name])}"
    return text


def _difference(row: ArmRow, metric: Metric) -> str:
    found = row.against.get(metric.name)
    if found is None:
        return NONE
    doubt = " n.s." if found.p_value is not None and found.p_value > LEVEL else ""
    return with_error(found, metric) + doubt


def _shares(rows: Sequence[ArmRow], metric: str) -> list[float | None]:
    """How far each arm went from baseline to the told one; empty where that cannot be told."""
    by_arm = {row.arm: row.figures.get(metric) for row in rows}
    start, end = by_arm.get(BASELINE), by_arm.get(told_among(by_arm) or "")
    if start is None or end is None or start == end:
        return []
    figures = [row.figures.get(metric) for row in rows]
    return [None if value is None else (start - value) / (start - end) for value in figures]
