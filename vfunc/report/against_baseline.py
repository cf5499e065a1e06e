"""Table of every arm against the baseline in every metric, for runs with several metrics."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.modality import Metric
from vfunc.report.arms_table import ArmRow, measured, with_error
from vfunc.report.measures import DOWN, UP, Measures, arrow, name_of, written
from vfunc.report.table import BASELINE, LEVEL, NONE, captioned, empty_table, p_text
from vfunc.typecheck import typed


@typed
def baseline_table(rows: Sequence[ArmRow], measures: Measures) -> Table:
    """Every arm against the baseline in every metric, the primary one first.

    Args:
        rows: the arms, the baseline among them.
        measures: the metrics.

    Returns:
        A table for rich to print: the difference of the figures that `arms_table` shows, and,
        where a metric has a number for every example, the mean of the paired differences with its
        standard error and p value.

    Raises:
        UserError: there is no baseline, or nothing but the baseline.
    """
    base = next((row for row in rows if row.arm == BASELINE), None)
    others = [row for row in rows if row.arm != BASELINE]
    if base is None or not others:
        raise UserError(f"a comparison with {BASELINE} needs that arm and another one.")
    table = empty_table()
    table.title, table.title_justify = "against the baseline", "left"
    table.add_column("metric", no_wrap=True)
    table.add_column("arm", no_wrap=True)
    for header in ("difference", f"per {measures.example}", "p"):
        table.add_column(header, justify="right", no_wrap=True)
    for metric in reversed(measured(rows, measures)):
        unit = f" {metric.unit}" if metric.unit else ""
        shown = f"{name_of(metric)}{unit} {arrow(metric)}"
        for row in others:
            cells = [shown, row.arm, _difference(row, base, metric), *_paired(row, metric)]
            table.add_row(*(Text(cell) for cell in cells))
            shown = ""
    return captioned(table, _baseline_notes(rows, measures, len(others)))


def _difference(row: ArmRow, base: ArmRow, metric: Metric) -> str:
    if not (metric.name in row.figures and metric.name in base.figures):
        return NONE
    return written(metric, row.figures[metric.name] - base.figures[metric.name], "+")


def _paired(row: ArmRow, metric: Metric) -> list[str]:
    found = row.against.get(metric.name)
    if found is None:
        return [NONE, NONE]
    return [with_error(found, metric), p_text(found.p_value)]


def _baseline_notes(rows: Sequence[ArmRow], measures: Measures, arms: int) -> list[str]:
    notes = []
    if any(row.against for row in rows):
        notes.append(f"per {measures.example}: mean ± standard error of paired differences")
        over = f", Holm over {arms} arms" if arms > 1 else ""
        notes += [f"p: paired{over}", f"n.s.: p > {LEVEL}"]
    notes.append(f"{UP} higher is better, {DOWN} lower is better")
    if measures.primary in measured(rows, measures):
        notes.append(f"primary: {name_of(measures.primary)}")
    return notes
