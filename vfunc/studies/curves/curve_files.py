"""Writes a curve: its data as JSON and CSV, its figure as PNG, and what is printed of it."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from vfunc.errors import UserError
from vfunc.printable import SafeConsole
from vfunc.studies.finished_runs import FoundRun
from vfunc.training.checkpoint import write_atomically, write_json
from vfunc.training.provenance import git_commit

MADE_WITH = ("git_commit", "device", "threads", "versions")
"""What a run says of how it was made."""


@dataclass(frozen=True)
class Curve:
    """A curve as it is written and printed.

    Attributes:
        kind: the command's word for it, which names the files.
        content: everything that it shows, as plain data.
        rows: what the figure shows, a row a point; all have the same columns.
        draw: draws the figure to a PNG file.
        tables: what is printed.
        notes: what is to be known beside them, a line each.
    """

    kind: str
    content: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    draw: Callable[[Path], None]
    tables: Sequence[Table]
    notes: Sequence[str] = field(default=())


def new_console() -> SafeConsole:
    """The console that a curve's command prints on."""
    return SafeConsole(width=None if sys.stdout.isatty() else 100)


def require_writable(output: str | None) -> None:
    """Refuse a folder for the curve that cannot be one, before time is spent on what it holds.

    Raises:
        UserError: something else is there, or where it would have to be made.
    """
    if output is None:
        return
    place = Path(output)
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir():
        where = "is a file" if there == place else f"cannot be made: {there} is a file"
        raise UserError(f"--output {output} {where}; give a folder")
    if not os.access(there, os.W_OK):
        raise UserError(f"--output {output}: {there} may not be written to; give another folder")


def told_of(found: Sequence[FoundRun]) -> list[dict[str, Any]]:
    """What finished runs were, for a curve's record."""
    return [
        {"path": str(f.path), **{k: f.content.get(k) for k in ("config", *MADE_WITH)}}
        for f in found
    ]


def write_curve(
    curve: Curve,
    runs: Sequence[Mapping[str, Any]],
    command: str,
    folder: Path,
    console: SafeConsole,
) -> None:
    """Write <kind>.json, .csv and .png, and print the tables.

    Args:
        curve: the curve.
        runs: the runs that it is of, see `told_of`.
        command: the command line, for the record.
        folder: the folder to write to, made if need be.
        console: the console to print on.

    Raises:
        OSError: a file cannot be written.
    """
    whole = {
        "kind": curve.kind,
        "command": command,
        "git_commit": git_commit(),
        **curve.content,
        "notes": list(curve.notes),
        "runs": list(runs),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"{curve.kind}.json", whole)
    text = as_csv(curve.rows)
    write_atomically(
        folder / f"{curve.kind}.csv", lambda t: Path(t).write_text(text, encoding="utf-8")
    )
    write_atomically(folder / f"{curve.kind}.png", lambda t: curve.draw(Path(t)))
    for table in curve.tables:
        console.print()
        console.print(table)
    for note in curve.notes:
        console.print(f"\n{note}", soft_wrap=True)
    console.print(f"\nfiles    {folder}/{curve.kind}.json, .csv, .png", soft_wrap=True)


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as CSV with a head; what is None is empty."""
    out = io.StringIO()
    names = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def folder_of(runs: Sequence[Path], output: str | None) -> Path:
    """Where the curve of runs goes: beside one run, into the folder of several.

    Args:
        runs: their directories.
        output: where it is to go, if that was said.
    """
    if output is not None:
        return Path(output)
    others = [one.resolve() for one in runs]
    first = others[0]
    if len(runs) == 1:  # a run's own folder holds what the run writes, and nothing else
        folder = first.with_name(f"{first.name}-curves")
    else:
        folder = next(p for p in first.parents if all(p in other.parents for other in others))
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
