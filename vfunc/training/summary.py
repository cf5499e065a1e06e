"""Summarises a run: the line it opens with; at its end tables, metrics and plots."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import PairedDifference, holm, paired_difference
from vfunc.evaluation.probe import ProbeSummary
from vfunc.modality import Metric, Reporting
from vfunc.report.against_baseline import baseline_table
from vfunc.report.apart_table import apart_table, kept_together
from vfunc.report.arms_table import arms_table, judged
from vfunc.report.events import read_events
from vfunc.report.gates_table import gate_means, gates_table
from vfunc.report.map_events import map_file
from vfunc.report.measures import Measures
from vfunc.report.plots import learning_curves, probe_scatter, value_curves
from vfunc.report.probe_events import (
    foresights_of,
    probe_points,
    probe_row,
    probe_summaries,
    signals_of,
)
from vfunc.report.result_rows import result_row, start_row
from vfunc.report.table import (
    BASELINE,
    markdown,
    probe_table,
    signal_table,
    write_text,
)
from vfunc.training.assemble import Assembled
from vfunc.training.build.configuration import COMMAND
from vfunc.training.checkpoint import write_json
from vfunc.training.provenance import provenance
from vfunc.training.run_directory import RunDirectory

PAGE = "report.html"


def describe_run(assembled: Assembled) -> str:
    """What is about to be trained, on what, in a few lines."""
    config = assembled.config
    parameters = sum(p.numel() for p in assembled.learner.parameters())
    trainable = sum(p.numel() for p in assembled.learner.parameters() if p.requires_grad)
    phi = sum(p.numel() for p in assembled.workload.new_designer().parameters())
    lines = [
        f"learner   {parameters:,} parameters, {trainable:,} trainable, on {assembled.device}; "
        f"designer {phi:,}",
        f"estimator {config.options['estimator']}, value over {config.estimator.align}",
    ]
    several = assembled.workload.processes.size
    if several > 1:
        lines.append(f"processes {several}, whose --batch-size each make one batch")
        if assembled.config.learner_in_shards:
            lines[-1] += "; the blocks below S are spread over them"
    lines += assembled.reporting.lines
    return "\n".join(lines)


def finish(assembled: Assembled, directory: RunDirectory, console: Console) -> None:
    """Compare the arms, write metrics.json, tables and plots, and print what there is to see.

    Args:
        assembled: the run.
        directory: the directory of the arms' results.
        console: the console to print on.
    """
    results = {name: directory.finished(name) for name in assembled.config.run.arms}
    arms: dict[str, dict[str, Any]] = {k: r for k, r in results.items() if r is not None}
    reporting = assembled.reporting
    measures = Measures(reporting.unit, reporting.metrics)
    comparisons = compare_with_baseline(arms, measures.metrics)
    start = directory.read(directory.start) or {}
    manifest = directory.manifest()
    accepted = () if manifest is None else manifest.accepted
    events = read_events(directory.events)
    probes, signals, gates = probe_summaries(events), signals_of(events), gate_means(events)
    write_json(
        directory.metrics,
        {
            "config": {
                k: _plain(v) for k, v in assembled.config.options.items() if k not in COMMAND
            },
            **provenance(assembled.device),
            **({"accepted_changes": list(accepted)} if accepted else {}),
            "data": dict(reporting.data),
            "unit": measures.unit,
            "metrics": [asdict(metric) for metric in measures.metrics],
            "arms": {
                name: {k: v for k, v in result.items() if k != "outcomes"}
                for name, result in arms.items()
            },
            "start": start,
            "against_baseline": comparisons,
            "probe": {arm: [_said(s) for s in rows] for arm, rows in probes.items()},
            **({"foresight": foreseen} if (foreseen := foresights_of(events)) else {}),
            **({"gates": gates} if gates else {}),
            **({"signal": signals} if signals else {}),
        },
    )
    rows = [result_row(arms[name], comparisons.get(name, {}), measures) for name in arms]
    every = [start_row(start, measures), *rows]
    tables = [arms_table(every, kept_together(measures))]
    if (benchmarks := apart_table(every, measures)) is not None:
        tables.append(benchmarks)
    if len(judged(rows, measures)) > 1 and comparisons:
        tables.append(baseline_table(rows, measures))
    write_text(tables, directory.path / "table.txt")
    for arm, summaries in probes.items():
        if not summaries:
            continue
        probe = probe_table([probe_row(s) for s in summaries], unit=measures.loss_unit)
        probe.title = f"one-step probe, {arm}"
        tables.append(probe)
    if (opened := gates_table(gates)) is not None:
        tables.append(opened)
    if signals:
        seen = signal_table(signals)
        seen.title = "what g_down sees, halfway"
        tables.append(seen)
    text = "\n".join((f"### {t.title}\n\n" if t.title else "") + markdown(t) for t in tables)
    (directory.path / "table.md").write_text(text, encoding="utf-8")
    directory.plots.mkdir(exist_ok=True)
    written, undrawn = _drawn(reporting, measures, events, directory.plots)
    made = [directory.metrics, directory.path / "table.txt", directory.path / "table.md"]
    directory.record(*(path for path in (*made, *written) if path.exists()), events=True)
    for t in tables:
        console.print()
        console.print(t)
    undrawn += _paged(directory)
    console.print(f"\nrun      {directory.path}", highlight=False)
    console.print(
        "files    report.html, metrics.json, table.md, events.jsonl, config.toml", highlight=False
    )
    console.print(f"plots    {', '.join(p.name for p in written)}", highlight=False)
    console.print("learners learners/<arm>, designers/<arm>.safetensors", highlight=False)
    lost = {arm: sum(s.left_out for s in rows) for arm, rows in probes.items()}
    for arm, count in lost.items():
        if count:
            undrawn.append(f"{count} decreases of the probe of {arm} are not finite, and left out")
    for line in undrawn:
        console.print(f"warning: {line}", soft_wrap=True)


def _paged(directory: RunDirectory) -> list[str]:
    """Write the run's page; lines on what it lacks. Whatever goes wrong here ends no run."""
    page = directory.path / PAGE
    try:
        # imported here: what is wrong with it, a package missing even, is a line
        from vfunc.report.page.page import write_page

        return [f"{page}: {gap}" for gap in write_page([directory.path], page)]
    except Exception as error:
        return [f"{page} is not written: {type(error).__name__}: {error}"]


def compare_with_baseline(
    arms: Mapping[str, Mapping[str, Any]], metrics: Sequence[Metric]
) -> dict[str, dict[str, Any]]:
    """Each arm against the baseline on the same examples, Holm-corrected over arms.

    A metric is compared where it has a number for each example: the loss of a completion (its mean
    over tokens), a problem's Pass@1, a picture's error. Examples without a number in either arm (a
    picture without labels) are left out; nothing is compared where one arm alone has none.

    Returns:
        By arm and metric: difference, standard_error, p_value, p_value_holm.
    """
    if BASELINE not in arms:
        return {}
    others = [name for name in arms if name != BASELINE]
    compared: dict[str, dict[str, Any]] = {name: {} for name in others}
    for metric in metrics:
        outcomes = {name: arm["outcomes"].get(metric.outcomes) for name, arm in arms.items()}
        tried = {name: _paired(outcomes[name], outcomes[BASELINE]) for name in others}
        found = {name: d for name, d in tried.items() if d is not None}
        adjusted = holm([d.p_value for d in found.values()]) if found else []
        for (name, d), p in zip(found.items(), adjusted, strict=True):
            compared[name][metric.name] = {**d._asdict(), "p_value_holm": p}
    return compared


def _paired(
    arm: Sequence[float | None] | None, base: Sequence[float | None] | None
) -> PairedDifference | None:
    """The paired difference, or None where the two are not of the same two or more examples."""
    if arm is None or base is None or [x is None for x in arm] != [x is None for x in base]:
        return None
    a, b = ([x for x in numbers if x is not None] for numbers in (arm, base))
    return paired_difference(a, b) if len(a) > 1 else None


def _drawn(
    reporting: Reporting, measures: Measures, events: list[dict[str, Any]], folder: Path
) -> tuple[list[Path], list[str]]:
    """Draw what there is to draw; the pictures, and why others are missing.

    Everything has been trained and written by now: what cannot be drawn does not end the run.
    """
    written, undrawn = [], []
    for path, draw in _plots(reporting, measures, events, folder):
        try:
            draw(path)
            written.append(path)
        except (UserError, ValueError, ArithmeticError) as error:
            undrawn.append(f"{path} is not drawn: {error}")
    return written, undrawn


def _plots(
    reporting: Reporting, measures: Measures, events: list[dict[str, Any]], folder: Path
) -> Iterator[tuple[Path, Callable[[Path], object]]]:
    """What there is to draw: curves, the probe, the value maps."""
    unit = measures.loss_unit
    yield folder / "learning_curves.png", lambda path: learning_curves(events, path, measures)
    if any("value" in e for e in events):
        steps = [_without_repeats(e) for e in events if e["kind"] == "step"]
        yield folder / "value_curves.png", lambda path: value_curves(steps, path, unit=unit)
    points = probe_points(events)
    if points:
        yield folder / "probe.png", lambda path: probe_scatter(points, path, unit=unit)
    for e in events:
        if e["kind"] == "value_map":
            path = folder / map_file(e)
            yield path, functools.partial(reporting.draw_map, e)


def _without_repeats(event: dict[str, Any]) -> dict[str, Any]:
    """A step's event without an objective that is the value itself."""
    same = event.get("objective") == event.get("value")
    return {k: v for k, v in event.items() if not (same and k == "objective")}


def _said(summary: ProbeSummary) -> dict[str, Any]:
    """A probe's summary as plain data; what was left out where anything was."""
    return {k: v for k, v in vars(summary).items() if k != "left_out" or v}


def _plain(value: Any) -> Any:
    known = (str, int, float, bool, type(None))
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    return value if isinstance(value, known) else str(value)
