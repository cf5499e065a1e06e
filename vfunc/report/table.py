"""The tables at the end of a run, for a terminal, a text file and a README."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.typecheck import typed

BASELINE = "baseline"
KNOWN_WRONG = "known_wrong"
NONE = "–"
_LEVEL = 0.05
_WIDTH = 80  # columns that a table keeps to, if need be by closing up


@dataclass(frozen=True)
class ArmRow:
    """What an arm came to.

    Attributes:
        arm: its name.
        steps: learner steps taken.
        tokens: tokens read, prompts included, padding not.
        tokens_per_second: over the time that the budget counts.
        heldout_loss: mean loss on held-out completions, nats a token.
        pass_at_1: share of held-out problems solved, 0 to 1, or None if there are none to solve.
        pass_at_1_error: its standard error over problems.
        difference: Pass@1 minus the baseline's on the same problems; None for the baseline.
        difference_error: the paired standard error.
        p_value: of the paired comparison, two-sided (adjusted, where several are made).
    """

    arm: str
    steps: int
    tokens: int
    tokens_per_second: float
    heldout_loss: float
    pass_at_1: float | None = None
    pass_at_1_error: float | None = None
    difference: float | None = None
    difference_error: float | None = None
    p_value: float | None = None


@dataclass(frozen=True)
class ProbeRow:
    """The one-step probe for one kind of step.

    Attributes:
        step: the kind of step ("sgd, small", "adamw").
        count: batches tried.
        predicted: mean predicted decrease of the feedback loss, nats.
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
def arms_table(
    rows: Sequence[ArmRow], *, share_of: Literal["heldout_loss", "pass_at_1"] = "heldout_loss"
) -> Table:
    """The arms of a run side by side, at most 80 columns wide.

    Where `baseline` and `known_wrong` are both among the arms, a last column tells which share of
    the way from the one to the other each arm went.

    Args:
        rows: the arms, in the order to show.
        share_of: the figure in which the way is measured.

    Returns:
        A table for rich to print. Pass@1 is in per cent, differences in points; "n.s." marks a
        difference whose p value is above 0.05.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("no arms to put into a table.")
    shares = _shares(rows, share_of)
    solves = any(row.pass_at_1 is not None for row in rows)
    compares = any(row.difference is not None for row in rows)
    table = _empty()
    table.add_column("arm", no_wrap=True)
    for header in ("steps", "tokens", "tokens\nper s", "held-out\nloss"):
        table.add_column(header, justify="right", no_wrap=True)
    if solves:
        table.add_column("Pass@1\n%", justify="right", no_wrap=True)
    if compares:
        table.add_column("against\nbaseline", justify="left", no_wrap=True)
    if shares:
        table.add_column("way\n%", justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        cells = [row.arm, f"{row.steps:,}", si(row.tokens), si(row.tokens_per_second)]
        cells.append(f"{row.heldout_loss:.4f}")
        if solves:
            cells.append(_percent(row.pass_at_1, row.pass_at_1_error))
        if compares:
            cells.append(_difference(row))
        if shares:
            share = shares[index]
            cells.append(NONE if share is None else f"{100 * share + 0.0:.0f}")
        table.add_row(*(Text(cell) for cell in cells))
    notes = []
    if solves:
        notes.append("± standard error over problems")
    if compares:
        notes.append(f"n.s.: p > {_LEVEL}, paired")
    if shares:
        figure = "held-out loss" if share_of == "heldout_loss" else "Pass@1"
        notes.append(f"way: from {BASELINE} to {KNOWN_WRONG} in {figure}")
    return _captioned(table, notes)


@typed
def probe_table(rows: Sequence[ProbeRow]) -> Table:
    """The one-step probe: does the value predict what a step brings?

    Args:
        rows: a row for each kind of step.

    Returns:
        A table for rich to print; decreases in thousandths of a nat.

    Raises:
        UserError: no rows.
    """
    if not rows:
        raise UserError("no probes to put into a table.")
    table = _empty()
    table.add_column("step", no_wrap=True)
    for header in ("batches", "predicted\n10⁻³ nat", "realised\n10⁻³ nat", "Pearson", "Spearman"):
        table.add_column(header, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.step, str(row.count)]
        cells += [f"{1e3 * mean:+.3g}" for mean in (row.predicted, row.realised)]
        cells += [NONE if r is None else f"{r:.3f}" for r in (row.pearson, row.spearman)]
        table.add_row(*(Text(cell) for cell in cells))
    return _captioned(
        table, ["mean decrease of the loss in one step; predicted: -<g_down, step>, to first order"]
    )


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
def write_text(table: Table, path: Path | str, width: int = 100) -> None:
    """Write a table as it looks in a terminal, without colours.

    Args:
        table: the table.
        path: the file, replaced if there.
        width: columns of text.

    Raises:
        OSError: it cannot be written.
    """
    with Path(path).open("w", encoding="utf-8") as file:
        Console(file=file, width=width, no_color=True, force_terminal=False).print(table)


@typed
def si(number: float | int) -> str:
    """A count to three digits at most, with k, M or G: 950, 9.1k, 123k, 1.2M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(number) >= 0.9995 * size:
            scaled = number / size
            return f"{scaled:.1f}{letter}" if abs(scaled) < 9.95 else f"{scaled:.0f}{letter}"
    return f"{number:.0f}"


def _empty() -> Table:
    return Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold", show_edge=False)


def _captioned(table: Table, notes: Sequence[str]) -> Table:
    if Console(width=10 * _WIDTH).measure(table).maximum > _WIDTH:
        table.padding = (0, 0, 0, 0)
    table.caption = Text("; ".join(notes), style="dim") if notes else None
    table.caption_justify = "left"
    return table


def _percent(share: float | None, error: float | None) -> str:
    if share is None:
        return NONE
    return f"{100 * share:.1f}" + ("" if error is None else f" ± {100 * error:.1f}")


def _difference(row: ArmRow) -> str:
    if row.difference is None:
        return NONE
    error = "" if row.difference_error is None else f" ± {100 * row.difference_error:.1f}"
    doubt = " n.s." if row.p_value is not None and row.p_value > _LEVEL else ""
    return f"{100 * row.difference:+.1f}{error}{doubt}"


def _shares(rows: Sequence[ArmRow], figure: str) -> list[float | None]:
    """How far each arm went from baseline to known_wrong; empty where that cannot be told."""
    by_arm = {row.arm: getattr(row, figure) for row in rows}
    start, end = by_arm.get(BASELINE), by_arm.get(KNOWN_WRONG)
    if start is None or end is None or start == end:
        return []
    figures = [getattr(row, figure) for row in rows]
    return [None if value is None else (start - value) / (start - end) for value in figures]


def _plain(cell: object) -> str:
    text = cell.plain if isinstance(cell, Text) else str(cell)
    return text.replace("\n", " ").replace("|", "\\|")
