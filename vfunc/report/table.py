"""Style and output formats of all tables, and the probe's table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.printable import SafeConsole, printable
from vfunc.typecheck import typed

BASELINE = "baseline"
TOLD = ("known_wrong", "known_objects")
"""Arms that are told what is right, of text and of pictures: where the way leads to."""
NONE = "–"
LEVEL = 0.05
WIDTH = 80  # columns that a table keeps to, if need be by closing up


@dataclass(frozen=True)
class ProbeRow:
    """The one-step probe for one kind of step.

    Attributes:
        step: the kind of step ("sgd, small", "adamw").
        count: batches tried.
        predicted: mean predicted decrease of the feedback loss, in its unit.
        realised: mean decrease that the step brought.
        pearson: correlation of the two over batches; None where it is not defined.
        spearman: rank correlation; None where it is not defined.
    """

    step: str
    count: int
    predicted: float
    realised: float
    pearson: float | None
    spearman: float | None


@typed
def probe_table(rows: Sequence[ProbeRow], *, unit: str) -> Table:
    """Table of the one-step probe: predicted against realised decreases.

    Args:
        rows: a row for each kind of step.
        unit: unit of the loss, as in "nat"; empty where it has none.

    Returns:
        A table for rich to print; decreases in thousandths of the unit.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("no probes to put into a table.")
    table = empty_table()
    table.add_column("step", no_wrap=True)
    thousandths = f"10⁻³ {unit}".rstrip()
    decreases = [f"{which}\n{thousandths}" for which in ("predicted", "realised")]
    for header in ("batches", *decreases, "Pearson", "Spearman"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.step, str(row.count)]
        cells += [f"{1e3 * mean:+.3g}" for mean in (row.predicted, row.realised)]
        cells += [NONE if r is None else f"{r:.3f}" for r in (row.pearson, row.spearman)]
        table.add_row(*(Text(cell) for cell in cells))
    return captioned(
        table, ["mean decrease of the loss in one step; predicted: -<g_down, step>, to first order"]
    )


def told_among(arms: Iterable[str]) -> str | None:
    """The arm of `TOLD` that is among these, or None."""
    there = tuple(arms)  # once: an iterator has no second reading
    return next((name for name in TOLD if name in there), None)


@typed
def signal_table(rows: Mapping[str, Mapping[str, Any]]) -> Table:
    """Table of what g_down sees: agreement of its halves, the stream in it, known mistakes.

    Args:
        rows: by arm: `feedback_agreement`, `mean_cosine`, `auc_dot`, `auc_deflated` and
            `oracle_gap`, as far as they are defined.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("nothing was seen of g_down to put into a table.")
    columns = {
        "feedback_agreement": "feedback's\nhalves",
        "mean_cosine": "stream's\nmean",
        "auc_dot": "mistakes\nby dot",
        "auc_deflated": "mistakes\ndeflated",
        "oracle_gap": "way to\noracle",
    }
    shown = {name: head for name, head in columns.items() if any(name in r for r in rows.values())}
    table = empty_table()
    table.add_column("arm", no_wrap=True)
    for header in shown.values():
        table.add_column(header, justify="right", no_wrap=True)
    for arm, row in rows.items():
        cells = [NONE if row.get(name) is None else f"{row[name]:.3f}" for name in shown]
        table.add_row(*(Text(cell) for cell in (arm, *cells)))
    said = ["cosines of g_down's halves, and of g_down and the stream's mean gradient"]
    if "auc_dot" in shown:
        said.append("mistakes: AUC of minus each token's value; chance is .5")
    if "oracle_gap" in shown:
        said.append(
            "way: (V(designer) - V(plain)) / (V(oracle) - V(plain)), plain: data as they are"
        )
    return captioned(table, said)


@typed
def markdown(table: Table) -> str:
    """A table as GitHub markdown: the same cells, its caption in a line below.

    Args:
        table: one of this module's tables.

    Returns:
        The text, ending in a newline.
    """
    columns = [[_plain(cell) for cell in column.cells] for column in table.columns]
    lines = [[_plain(column.header) for column in table.columns]]
    lines.append(["---:" if column.justify == "right" else "---" for column in table.columns])
    lines += [list(row) for row in zip(*columns, strict=True)]
    text = "".join("| " + " | ".join(line) + " |\n" for line in lines)
    return text + (f"\n{_plain(table.caption)}\n" if table.caption else "")


@typed
def write_text(tables: Sequence[Table], path: Path | str, width: int = 100) -> None:
    """Write tables as they look in a terminal, without colours, an empty line between two.

    Args:
        tables: the tables.
        path: the file, replaced if there.
        width: columns of text.

    Raises:
        OSError: it cannot be written.
    """
    with Path(path).open("w", encoding="utf-8") as file:
        console = SafeConsole(file=file, width=width, no_color=True, force_terminal=False)
        for index, table in enumerate(tables):
            if index:
                console.print()
            console.print(table)


@typed
def p_text(p_value: float | None) -> str:
    """A p value to three decimals; "n.s." marks one above 0.05."""
    if p_value is None:
        return NONE
    text = "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
    return text + (" n.s." if p_value > LEVEL else "")


@typed
def si(number: float | int) -> str:
    """A count to three digits at most, with k, M or G: 950, 9.1k, 123k, 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.1f}{letter}" if abs(scaled) < 9.95 else f"{scaled:.0f}{letter}"
    return f"{number:.0f}"


@typed
def empty_table() -> Table:
    """A table without columns, in the style of all."""
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)


@typed
def captioned(table: Table, notes: Sequence[str]) -> Table:
    """The same table with notes below it, closed up if it is too wide."""
    if width_of(table) > WIDTH:
        table.padding = (0, 0, 0, 0)
    table.caption = Text("; ".join(notes), style="dim") if notes else None
    table.caption_justify = "left"
    return table


@typed
def width_of(table: Table) -> int:
    """The columns of text that a table takes where it has all the room there is."""
    return SafeConsole(width=10 * WIDTH).measure(table).maximum


def _plain(cell: object) -> str:
    text = cell.plain if isinstance(cell, Text) else str(cell)
    return printable(text).replace("\n", " ").replace("|", "\\|")
