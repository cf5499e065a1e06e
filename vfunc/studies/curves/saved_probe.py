"""The one-step probe of saved runs: predicted against realised decrease on M tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.evaluation.probe import ProbePoint
from vfunc.report.plots import probe_scatter
from vfunc.report.probe_events import probe_name
from vfunc.report.table import NONE, captioned, empty_table
from vfunc.studies.curves.correlation import Agreement, agreement_of
from vfunc.studies.curves.curve_files import (
    Curve,
    folder_of,
    new_console,
    require_writable,
    write_curve,
)
from vfunc.studies.curves.curve_options import ProbeOptions
from vfunc.studies.curves.saved_arm import SavedArm, saved_arm
from vfunc.studies.finished_runs import run_places
from vfunc.training.probing import probed_batch
from vfunc.training.provenance import provenance
from vfunc.training.run_directory import RunDirectory

KIND = "probe"


@dataclass(frozen=True)
class Probed:
    """The probe of one saved run.

    Attributes:
        path: the run's directory.
        step: learner steps that the arm had taken.
        whole: whether its optimizer was as it was (see `SavedArm`); else there is no real step.
        unit: unit of the decreases; empty where they have none.
        points: every task's decreases, by kind of step in words.
        left_out: decreases that are not finite.
    """

    path: Path
    step: int
    whole: bool
    unit: str
    points: Mapping[str, tuple[tuple[float, float], ...]]
    left_out: int


def make(options: ProbeOptions, rest: Sequence[str], command: str) -> None:
    """Probe the runs, and write scatter and correlations.

    Args:
        options: the runs, the arm, and how many tasks.
        rest: nothing.
        command: the command line, for the record.

    Raises:
        UserError: see `saved_arm`; or the runs are of two modalities.
    """
    del rest
    require_writable(options.output)
    places, console = run_places([Path(place) for place in options.from_]), new_console()
    probed, runs = list[Probed](), list[dict[str, Any]]()
    for path in places:
        saved = saved_arm(
            RunDirectory(path), options.arm, device=options.device, threads=options.threads
        )
        console.print(
            f"{path}, {options.arm} at step {saved.run.state.counters.step}: {options.batches} "
            "tasks",
            soft_wrap=True,
        )
        probed.append(probe_of(path, saved, options.batches))
        device = next(saved.run.state.learner.parameters()).device
        runs.append({"path": str(path), "config": saved.told, **provenance(device)})
    if len({one.unit for one in probed}) > 1:
        raise UserError("--from: runs of text and of pictures are no one probe; give those of one")
    write_curve(
        curve_of(probed, options), runs, command, folder_of(places, options.output), console
    )


def probe_of(path: Path, saved: SavedArm, batches: int) -> Probed:
    """Predicted and realised decreases of one step on each of so many tasks.

    The tasks are those of the micro-batches that the run would come to next, and the first of them
    are those of its own probe at this state.

    Args:
        path: the run's directory.
        saved: the arm, which stays as it is.
        batches: M.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    left_out = 0
    for k in range(batches):
        for point in probed_batch(saved.run, k).points:
            if point.step == "real" and not saved.whole:
                continue
            if math.isfinite(point.predicted) and math.isfinite(point.realised):
                found.setdefault(_name(point), []).append((point.predicted, point.realised))
            else:
                left_out += 1
    if not found:
        raise UserError(f"{path}: no decrease is finite; the arm's training has broken down")
    points = {name: tuple(pairs) for name, pairs in found.items()}
    return Probed(
        path, saved.run.state.counters.step, saved.whole, saved.loss_unit, points, left_out
    )


def agreements(probed: Sequence[Probed], resamples: int) -> dict[str, Agreement]:
    """How predictions agree with what happened, by kind of step that all runs have.

    Args:
        probed: the runs.
        resamples: bootstrap draws.
    """
    kinds = [kind for kind in probed[0].points if all(kind in one.points for one in probed)]
    return {kind: agreement_of([one.points[kind] for one in probed], resamples) for kind in kinds}


def curve_of(probed: Sequence[Probed], options: ProbeOptions) -> Curve:
    """What is written and printed of these probes.

    Args:
        probed: the runs.
        options: what was asked for.
    """
    found = agreements(probed, options.resamples)
    unit = probed[0].unit
    every = {kind: [pair for one in probed for pair in one.points[kind]] for kind in found}
    pooled = {kind: ([p for p, _ in of], [r for _, r in of]) for kind, of in every.items()}
    notes = []
    if any(not one.whole for one in probed):
        notes.append(
            "The optimizer's moments are gone of: "
            f"{', '.join(str(one.path) for one in probed if not one.whole)}. Only the small step "
            "is taken, along the gradient, a tenth as long as a first step; --leave-checkpoints of "
            "run keeps them."
        )
    if lost := sum(one.left_out for one in probed):
        notes.append(f"{lost} decreases are not finite, and left out.")
    return Curve(
        KIND,
        {
            "arm": options.arm,
            "batches": options.batches,
            "resamples": options.resamples,
            "confidence": 0.95,
            "unit": unit,
            "interval_over": "tasks" if len(probed) == 1 else "runs",
            "agreement": {
                kind: {**vars(a), "each": [vars(one) for one in a.each]}
                for kind, a in found.items()
            },
            "points": [
                {
                    "path": str(one.path),
                    "step": one.step,
                    "whole": one.whole,
                    "decreases": {
                        kind: [{"predicted": p, "realised": r} for p, r in pairs]
                        for kind, pairs in one.points.items()
                    },
                }
                for one in probed
            ],
        },
        [
            {"run": str(one.path), "step": kind, "task": k, "predicted": p, "realised": r}
            for one in probed
            for kind, pairs in one.points.items()
            for k, (p, r) in enumerate(pairs)
        ],
        lambda path: probe_scatter(
            pooled, path, unit=unit, told={kind: _title(a) for kind, a in found.items()}
        ),
        [_table(found, unit, len(probed))],
        notes,
    )


def _name(point: ProbePoint) -> str:
    return probe_name(point.step, point.feedback)


def _title(a: Agreement) -> str:
    if a.pearson is None:
        return "Pearson r undefined"
    ends = "" if a.interval is None else " [{:.2f}, {:.2f}]".format(*a.interval)
    counts = f"n = {sum(one.count for one in a.each)}"
    counts += f", r the mean of {len(a.each)} runs" if len(a.each) > 1 else ""
    return f"Pearson r = {a.pearson:.3f}{ends}\n{counts}"


def _table(found: Mapping[str, Agreement], unit: str, runs: int) -> Table:
    table = empty_table()
    table.add_column("step", no_wrap=True)
    thousandths = f"10⁻³ {unit}".rstrip()
    for header in ("tasks", f"predicted\n{thousandths}", f"realised\n{thousandths}"):
        table.add_column(header, justify="right", no_wrap=True)
    for header in ("Pearson r", "95 %", "Spearman"):
        table.add_column(header, justify="right", no_wrap=True)
    for kind, a in found.items():
        ends = NONE if a.interval is None else "{:.3f} to {:.3f}".format(*a.interval)
        cells = [kind, str(sum(one.count for one in a.each))]
        cells += [f"{1e3 * mean:+.3g}" for mean in (a.predicted, a.realised)]
        cells += [
            NONE if a.pearson is None else f"{a.pearson:.3f}",
            ends,
            NONE if a.spearman is None else f"{a.spearman:.3f}",
        ]
        table.add_row(*map(Text, cells))
    over = (
        "the bootstrap's, over tasks" if runs == 1 else f"Student's of Fisher's z, over {runs} runs"
    )
    return captioned(
        table, [f"mean decrease of the loss in one step; predicted: -<g_down, step>; 95 %: {over}"]
    )
