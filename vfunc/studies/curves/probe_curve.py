"""What the one-step probe of saved runs writes, prints and draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from rich.table import Table
from rich.text import Text

from vfunc.report.plots import probe_scatter
from vfunc.report.table import NONE, captioned, empty_table
from vfunc.studies.curves.correlation import Agreement, agreement_of
from vfunc.studies.curves.curve_files import Curve
from vfunc.studies.curves.curve_options import ProbeOptions

KIND = "probe"


class Decrease(NamedTuple):
    """What a step on one task brought.

    Attributes:
        task: number of the task.
        predicted: predicted decrease.
        realised: the decrease that the step brought.
    """

    task: int
    predicted: float
    realised: float


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
    points: Mapping[str, tuple[Decrease, ...]]
    left_out: int


def agreements(probed: Sequence[Probed], resamples: int) -> dict[str, Agreement]:
    """How predictions agree with what happened, by kind of step that all runs have.

    Args:
        probed: the runs.
        resamples: bootstrap draws.
    """
    kinds = [kind for kind in probed[0].points if all(kind in one.points for one in probed)]
    return {
        kind: agreement_of([[d[1:] for d in one.points[kind]] for one in probed], resamples)
        for kind in kinds
    }


def curve_of(probed: Sequence[Probed], options: ProbeOptions) -> Curve:
    """What is written and printed of these probes.

    Args:
        probed: the runs.
        options: what was asked for.
    """
    found = agreements(probed, options.resamples)
    unit = probed[0].unit
    every = {kind: [d for one in probed for d in one.points[kind]] for kind in found}
    pooled = {
        kind: ([d.predicted for d in of], [d.realised for d in of]) for kind, of in every.items()
    }
    notes = []
    if len({one.step for one in probed}) > 1:
        steps = ", ".join(f"{one.path} at {one.step}" for one in probed)
        notes.append(f"The runs are not equally far: {steps}.")
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
                        kind: [d._asdict() for d in of] for kind, of in one.points.items()
                    },
                }
                for one in probed
            ],
        },
        [
            {"run": str(one.path), "step": kind, **d._asdict()}
            for one in probed
            for kind, of in one.points.items()
            for d in of
        ],
        lambda path: probe_scatter(
            pooled, path, unit=unit, told={kind: _title(a) for kind, a in found.items()}
        ),
        [_table(found, unit, len(probed))],
        notes,
    )


def _title(a: Agreement) -> str:
    if a.pearson is None:
        return "Pearson r undefined"
    ends = "" if a.interval is None else " [{:.2f}, {:.2f}]".format(*a.interval)
    counts = f"n = {sum(one.count for one in a.each)}"
    counts += f", r by Fisher's z of {len(a.each)} runs" if len(a.each) > 1 else ""
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
        "the bootstrap's, over tasks"
        if runs == 1
        else f"Student's of Fisher's z, over {runs} runs, whose mean gives r"
    )
    return captioned(
        table, [f"mean decrease of the loss in one step; predicted: -<g_down, step>; 95 %: {over}"]
    )
