"""Table of the metrics that stand apart: a row for each, the arms side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from vfunc.modality import Metric
from vfunc.report.arms_table import ArmRow, measured
from vfunc.report.measures import Measures, arrow, name_of, written
from vfunc.report.table import LEVEL, NONE, captioned, empty_table
from vfunc.typecheck import typed


@typed
def kept_together(measures: Measures) -> Measures:
    """The metrics that share the arms' table."""
    kept = tuple(metric for metric in measures.metrics if not metric.apart)
    return Measures(measures.unit, kept)


@typed
def apart_table(rows: Sequence[ArmRow], measures: Measures) -> Table | None:
    """The metrics that stand apart; None where no arm has any.

    Args:
        rows: the start and the arms, in the order to show.
        measures: the metrics.

    Returns:
        A table with a column for each arm; ± is the standard error over questions, and n.s. marks
        an arm whose difference from the baseline has a p value above 0.05.
    """
    shown = [metric for metric in measured(rows, measures) if metric.apart]
    if not shown:
        return None
    table = empty_table()
    table.title = "benchmarks"
    table.title_justify = "left"
    table.add_column("metric", no_wrap=True)
    for row in rows:
        table.add_column(row.arm, justify="right", no_wrap=True)
    for metric in shown:
        unit = f" {metric.unit}" if metric.unit else ""
        cells = [f"{name_of(metric)}{unit} {arrow(metric)}", *(_cell(row, metric) for row in rows)]
        table.add_row(*map(Text, cells))
    compared = any(metric.name in row.against for row in rows for metric in shown)
    notes = [f"± standard error over {measures.example}s"]
    return captioned(table, [*notes, f"n.s.: p > {LEVEL}, paired"] if compared else notes)


def _cell(row: ArmRow, metric: Metric) -> str:
    if metric.name not in row.figures:
        return NONE
    error = row.errors.get(metric.name)
    text = written(metric, row.figures[metric.name])
    text += "" if error is None else f" ± {written(metric, error)}"
    against = row.against.get(metric.name)
    doubt = against is not None and against.p_value is not None and against.p_value > LEVEL
    return f"{text} n.s." if doubt else text
