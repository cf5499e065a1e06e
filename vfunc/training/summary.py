"""What a run amounts to: the line it opens with, and at the end tables, metrics and plots."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from vfunc.evaluation.pass_at_k import holm, paired_difference
from vfunc.evaluation.probe import ProbePoint, ProbeSummary, summarise
from vfunc.report.events import read_events
from vfunc.report.plots import learning_curves, probe_scatter, value_curves
from vfunc.report.table import ArmRow, ProbeRow, arms_table, markdown, probe_table, write_text
from vfunc.training.assemble import Assembled
from vfunc.training.checkpoint import write_json
from vfunc.training.config import COMMAND
from vfunc.training.provenance import provenance
from vfunc.training.run_directory import RunDirectory
from vfunc.workload import Workload

BASELINE = "baseline"


def describe_run(parts: Assembled) -> str:
    """What is about to be trained, on what, in a few lines."""
    parameters = sum(p.numel() for p in parts.learner.parameters())
    trainable = sum(p.numel() for p in parts.learner.parameters() if p.requires_grad)
    phi = sum(p.numel() for p in parts.workload.new_designer().parameters())
    lines = [
        f"learner   {parameters:,} parameters, {trainable:,} trainable, on {parts.device}; "
        f"designer {phi:,}",
        f"estimator {parts.config.estimator.estimator}, value over {parts.config.estimator.align}",
    ]
    lines += parts.workload.describe()
    return "\n".join(lines)


def finish(parts: Assembled, directory: RunDirectory, console: Console) -> None:
    """Compare the arms, write metrics.json, tables and plots, and print what there is to see.

    Args:
        parts: the run.
        directory: where every arm has left its results.
        console: where to print.
    """
    results = {name: directory.finished(name) for name in parts.config.run.arms}
    arms: dict[str, dict[str, Any]] = {k: r for k, r in results.items() if r is not None}
    comparisons = compare_with_baseline(arms)
    start = json.loads(directory.start.read_text(encoding="utf-8"))
    events = read_events(directory.events)
    probes = probe_summaries(events)
    write_json(
        directory.metrics,
        {
            "config": {k: _plain(v) for k, v in parts.config.flat().items() if k not in COMMAND},
            **provenance(parts.device),
            "data": dict(parts.workload.summary()),
            "arms": {
                name: {k: v for k, v in result.items() if k != "outcomes"}
                for name, result in arms.items()
            },
            "start": start,
            "against_baseline": comparisons,
            "probe": {arm: [vars(s) for s in rows] for arm, rows in probes.items()},
        },
    )
    rows = [_start_row(start), *(_row(arms[name], comparisons.get(name)) for name in arms)]
    table = arms_table(rows)
    tables = [table]
    for arm, rows in probes.items():
        probe = probe_table([_probe_row(row) for row in rows])
        probe.title = f"one-step probe, {arm}"
        tables.append(probe)
    text = "\n".join((f"### {t.title}\n\n" if t.title else "") + markdown(t) for t in tables)
    (directory.path / "table.md").write_text(text, encoding="utf-8")
    write_text(table, directory.path / "table.txt")
    directory.plots.mkdir(exist_ok=True)
    written = _plots(parts.workload, events, directory.plots)
    for t in tables:
        console.print()
        console.print(t)
    console.print(f"\nrun      {directory.path}", highlight=False)
    console.print("files    metrics.json, table.md, events.jsonl, config.toml", highlight=False)
    console.print(f"plots    {', '.join(p.name for p in written)}", highlight=False)
    console.print("learners learners/<arm>, designers/<arm>.safetensors", highlight=False)


def compare_with_baseline(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Each arm against the baseline on the same examples, Holm-corrected over arms.

    The loss's difference is over examples (each one's mean over its tokens), Pass@1's over
    problems.

    Returns:
        By arm and metric: difference, standard_error, p_value, p_value_holm.
    """
    if BASELINE not in arms:
        return {}
    others = [name for name in arms if name != BASELINE]
    compared: dict[str, dict[str, Any]] = {name: {} for name in others}
    for metric in ("loss", "pass_at_1"):
        base = arms[BASELINE]["outcomes"].get(metric)
        if base is None:
            continue
        found = {name: paired_difference(arms[name]["outcomes"][metric], base) for name in others}
        adjusted = holm([d.p_value for d in found.values()]) if found else []
        for (name, d), p in zip(found.items(), adjusted, strict=True):
            compared[name][metric] = {**d._asdict(), "p_value_holm": p}
    return compared


def probe_summaries(events: list[dict[str, Any]]) -> dict[str, list[ProbeSummary]]:
    """The one-step probe of every arm that made one."""
    points: dict[str, list[ProbePoint]] = {}
    for e in events:
        if e["kind"] == "probe":
            point = ProbePoint(
                e["step_kind"], e["feedback"], float(e["predicted"]), float(e["realised"])
            )
            points.setdefault(e["arm"], []).append(point)
    return {arm: summarise(found) for arm, found in points.items()}


def _start_row(metrics: Mapping[str, Any]) -> ArmRow:
    return ArmRow(
        arm="start",
        steps=0,
        tokens=0,
        tokens_per_second=0.0,
        heldout_loss=metrics["loss"],
        pass_at_1=metrics.get("pass_at_1"),
        pass_at_1_error=metrics.get("pass_at_1_standard_error"),
    )


def _row(result: Mapping[str, Any], compared: Mapping[str, Any] | None) -> ArmRow:
    metrics = result["metrics"]
    solved = (compared or {}).get("pass_at_1")
    seconds = result["seconds"]
    return ArmRow(
        arm=result["arm"],
        steps=result["steps"],
        tokens=result["tokens"],
        tokens_per_second=result["tokens"] / seconds if seconds else 0.0,
        heldout_loss=metrics["loss"],
        pass_at_1=metrics.get("pass_at_1"),
        pass_at_1_error=metrics.get("pass_at_1_standard_error"),
        difference=solved["difference"] if solved else None,
        difference_error=solved["standard_error"] if solved else None,
        p_value=solved["p_value_holm"] if solved else None,
    )


def _probe_row(summary: ProbeSummary) -> ProbeRow:
    return ProbeRow(
        _probe_name(summary.step, summary.feedback),
        summary.count,
        summary.predicted,
        summary.realised,
        summary.pearson,
        summary.spearman,
    )


def _plots(workload: Workload, events: list[dict[str, Any]], folder: Path) -> list[Path]:
    """Draw what there is to draw: curves, the probe, the value map."""
    written = [folder / "learning_curves.png"]
    # Pass@1 is measured at the end alone, and has no curve
    curves = [{k: v for k, v in e.items() if k != "pass_at_1"} for e in events]
    learning_curves(curves, written[0])
    if any("value" in e for e in events):
        written.append(folder / "value_curves.png")
        value_curves([_without_repeats(e) for e in events if e["kind"] == "step"], written[-1])
    points = _probe_points(events)
    if points:
        written.append(folder / "probe.png")
        probe_scatter(points, written[-1])
    for e in events:
        if e["kind"] == "value_map":
            written.append(folder / f"value_map_{e['arm']}.png")
            workload.draw_map(e, written[-1])
    return written


def _without_repeats(event: dict[str, Any]) -> dict[str, Any]:
    """A step's event without an objective that is the value itself."""
    same = event.get("objective") == event.get("value")
    return {k: v for k, v in event.items() if not (same and k == "objective")}


def _probe_points(
    events: list[dict[str, Any]],
) -> dict[str, tuple[list[float], list[float]]]:
    """Predicted and realised decreases of the first arm that was probed, a kind of step each."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    probes = [e for e in events if e["kind"] == "probe"]
    for e in probes:
        if e["arm"] == probes[0]["arm"]:
            kind = _probe_name(e["step_kind"], e["feedback"])
            predicted, realised = found.setdefault(kind, ([], []))
            predicted.append(float(e["predicted"]))
            realised.append(float(e["realised"]))
    return found


def _probe_name(step: str, feedback: str) -> str:
    return f"{step}, {'same feedback' if feedback == 'same' else 'held-out'}"


def _plain(value: Any) -> Any:
    known = (str, int, float, bool, type(None))
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if isinstance(value, known) else str(value)
