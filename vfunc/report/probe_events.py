"""Reads the one-step probe, and what g_down sees, out of a run's events."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from vfunc.evaluation.probe import ProbePoint, ProbeSummary, summarise
from vfunc.report.table import ProbeRow
from vfunc.typecheck import typed

Event = Mapping[str, Any]


@typed
def probe_summaries(events: Sequence[Event]) -> dict[str, list[ProbeSummary]]:
    """The one-step probe of every arm that made one."""
    points: dict[str, list[ProbePoint]] = {}
    for e in events:
        if e["kind"] == "probe":
            point = ProbePoint(
                e["step_kind"], e["feedback"], float(e["predicted"]), float(e["realised"])
            )
            points.setdefault(e["arm"], []).append(point)
    return {arm: summarise(found) for arm, found in points.items()}


@typed
def foresights_of(events: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """What was told of every arm's feedback and tasks before it trained."""
    known = ("kind", "arm", "time", "at_step")
    return {
        e["arm"]: {k: v for k, v in e.items() if k not in known}
        for e in events
        if e["kind"] == "foresight"
    }


@typed
def signals_of(events: Sequence[Event]) -> dict[str, dict[str, Any]]:
    """What g_down sees, of every arm that was probed (`vfunc.training.probing`)."""
    known = ("kind", "arm", "time")
    return {
        e["arm"]: {k: v for k, v in e.items() if k not in known}
        for e in events
        if e["kind"] == "signal"
    }


@typed
def probe_row(summary: ProbeSummary) -> ProbeRow:
    """A kind of step's line of the probe's table."""
    return ProbeRow(
        probe_name(summary.step, summary.feedback),
        summary.count,
        summary.predicted,
        summary.realised,
        summary.pearson,
        summary.spearman,
    )


@typed
def probe_points(events: Sequence[Event]) -> dict[str, tuple[list[float], list[float]]]:
    """Predicted and realised decreases of the first arm that was probed, a kind of step each."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    probes = [e for e in events if e["kind"] == "probe"]
    for e in probes:
        finite = all(math.isfinite(float(e[name])) for name in ("predicted", "realised"))
        if e["arm"] == probes[0]["arm"] and finite:
            kind = probe_name(e["step_kind"], e["feedback"])
            predicted, realised = found.setdefault(kind, ([], []))
            predicted.append(float(e["predicted"]))
            realised.append(float(e["realised"]))
    return found


@typed
def probe_name(step: str, feedback: str) -> str:
    """A kind of step in words: "small, held-out"."""
    return f"{step}, {'same feedback' if feedback == 'same' else 'held-out'}"
