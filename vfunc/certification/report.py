"""Results of a certification: rows of verdicts, their table, and one line for a log."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Literal

from rich import box
from rich.table import Table

from vfunc.printable import SafeConsole

ZERO = "gradient and slope are zero"
"""The note of a row that says nothing of an estimator's arithmetic."""

Verdict = Literal[
    "holds", "exact", "approximate", "inconclusive", "not converged", "skipped", "FAILED"
]


@dataclass(frozen=True)
class Row:
    """The verdict on one premise or estimator.

    Attributes:
        subject: a premise of the problem, or an estimator with its options.
        verdict: `holds` (a premise); `exact` (the gradient is the objective's slope to the
            tolerance, and finite differences are good enough to tell); `approximate` (the
            estimator or engine is by design, with error `gap`); `inconclusive` (finite
            differences are not good enough to tell); `not converged` (a solver, or an engine's
            differences, did not on this problem, so that there is no gradient to hold against
            anything); `skipped`; `FAILED`.
        engine: the pullback's engine; "" where there is none.
        gap: largest |slope - <grad, direction>| / |grad| over the directions, relative.
        resolution: relative error of the finite differences themselves.
        note: the reason, in words.
        premise: whether the subject is a premise, and not an estimator.
    """

    subject: str
    verdict: Verdict
    engine: str = ""
    gap: float | None = None
    resolution: float | None = None
    note: str = ""
    premise: bool = False


@dataclass(frozen=True, repr=False)
class Certification:
    """The verdicts on one problem at one point; `str` of it is a table.

    Attributes:
        rows: the verdicts, in order.
        precision: the dtype of the computation, and the reason where it is not float64.
        notes: changes made for the check, in words.
    """

    rows: tuple[Row, ...]
    precision: str
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Row, ...]:
        """The rows that failed."""
        return tuple(row for row in self.rows if row.verdict == "FAILED")

    @property
    def estimators(self) -> tuple[Row, ...]:
        """The rows of estimators, without the premises."""
        return tuple(row for row in self.rows if not row.premise)

    @property
    def certified(self) -> tuple[Row, ...]:
        """The rows of estimators whose gradient was held against something, and passed."""
        passed = [row for row in self.estimators if row.verdict in ("exact", "approximate")]
        return tuple(row for row in passed if row.note != ZERO)

    def line(self) -> str:
        """The verdict on the estimators in one line, such as for a log."""
        verdicts = []
        for row in self.estimators:
            by = f" by {row.engine}" if row.engine else ""
            gap = "" if row.gap is None else f", gap {row.gap:.0e}"
            verdict = "" if row.verdict == "exact" else f" {row.verdict}"
            note = f" ({row.note})" if row.note and row.verdict != "exact" else ""
            verdicts.append(f"{row.subject}{by}{verdict}{gap}{note}")
        return f"{'; '.join(verdicts)}, {self.precision}"

    def table(self) -> Table:
        """All rows, for rich; their notes are numbered, and stand in `remarks`."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for name in ("checked", "engine", "verdict"):
            table.add_column(name, no_wrap=True)
        for name in ("gap", "differences good to"):
            table.add_column(name, justify="right", no_wrap=True)
        numbers = {note: i for i, note in enumerate(self._row_notes(), 1)}
        for row in self.rows:
            verdict = f"{row.verdict} ({numbers[row.note]})" if row.note else row.verdict
            figures = (_figure(row.gap), _figure(row.resolution))
            table.add_row(row.subject, row.engine, verdict, *figures)
        return table

    def remarks(self) -> tuple[str, ...]:
        """The lines below the table."""
        numbered = [f"({i}) {note}" for i, note in enumerate(self._row_notes(), 1)]
        return (f"computed in {self.precision}", *self.notes, *numbered)

    def __repr__(self) -> str:
        return f"Certification({len(self.rows)} rows, {len(self.failed)} failed: {self.line()})"

    def __str__(self) -> str:
        text = io.StringIO()
        wide = SafeConsole(file=text, width=160, color_system=None)
        wide.print(self.table())
        lines = [line.rstrip() for line in text.getvalue().splitlines()]
        return "\n".join([*(line for line in lines if line), "", *self.remarks()])

    def _row_notes(self) -> list[str]:
        return list(dict.fromkeys(row.note for row in self.rows if row.note))


def _figure(x: float | None) -> str:
    return "" if x is None else f"{x:.0e}"
