"""The feedback-size curve: how well arms do with fewer and more labelled examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vfunc.report.measures import Measures
from vfunc.report.seed_statistics import ArmOverSeeds
from vfunc.report.table import captioned, empty_table
from vfunc.studies.comparison_files import primary_of
from vfunc.studies.curves.curve_files import Curve, new_console, told_of, write_curve
from vfunc.studies.curves.curve_options import FeedbackSizeOptions
from vfunc.studies.curves.curve_words import against_baseline, label_of, seeds_notes, with_interval
from vfunc.studies.curves.feedback_data import (
    feedback_examples,
    require_held,
    require_same_evaluation,
)
from vfunc.studies.curves.figures.size_figure import MOST_PANELS, draw_sizes
from vfunc.studies.curves.swept_runs import Data, Swept, swept, touched
from vfunc.studies.finished_runs import FoundRun, measures_of
from vfunc.studies.repetition import PlannedRun, Setting

KIND = "feedback-size"


def make(options: FeedbackSizeOptions, rest: Sequence[str], command: str) -> None:
    """Make the runs that are missing, and write the curve.

    Args:
        options: the sizes, and the curve.
        rest: arguments of `run`, the same for all runs.
        command: the command line, for the record.

    Raises:
        UserError: see `swept`; or the feedback holds fewer examples than a size asks for.
    """
    console = new_console()
    sizes = {_label(size): size for size in sorted(options.sizes)}
    settings = [
        Setting(("feedback_size",), label, ("--feedback-size", str(size)))
        for label, size in sizes.items()
    ]

    def look_at_data(planned: Sequence[PlannedRun], data: Mapping[str, Data]) -> None:
        sources = len(planned[0].config.options.get("feedback") or ("embedded",))
        require_held({sizes[label]: d for label, d in data.items() if label}, sources)
        require_same_evaluation(data)

    def look(found: Sequence[FoundRun]) -> None:
        primary_of(options.primary, found)

    made = swept(
        settings,
        options,
        rest,
        console,
        study=f"curve-{KIND}",
        look_at_data=look_at_data,
        primary=options.primary,
        look=look,
    )
    if made is None:
        return
    primary = primary_of(options.primary, made.found)
    curve = curve_of(made, sizes, primary)
    folder = made.folder if options.output is None else Path(options.output)
    write_curve(curve, told_of(made.found), command, folder, console)


def curve_of(made: Swept, sizes: Mapping[str, int], primary: str) -> Curve:
    """The curve of these runs.

    Args:
        made: the runs.
        sizes: the size that each setting's label stands for, ascending.
        primary: the metric that it is about.
    """
    measures, arms = measures_of(made.found), made.compared
    known = {label: feedback_examples(made.of(label)[0].content.get("data", {})) for label in sizes}
    examples = {label: known[label] or size for label, size in sizes.items()}
    metrics = sorted(arms[0].metrics, key=lambda name: name != primary)
    points = [
        {"feedback_size": sizes[arm.setting], "examples": known[arm.setting]}
        | {k: v for k, v in asdict(arm).items() if k in ("arm", "seeds", "metrics")}
        for arm in arms
    ]
    notes = seeds_notes(arms)
    if any(not touched(arm.arm) for arm in arms):
        still = ", ".join(dict.fromkeys(arm.arm for arm in arms if not touched(arm.arm)))
        notes.append(f"{still}: one run a seed for all sizes, since it sees no feedback.")
    if cut := metrics[MOST_PANELS:]:
        notes.append(f"The figure leaves out {', '.join(cut)}, which the files have.")
    return Curve(
        KIND,
        {
            "unit": measures.unit,
            "metrics": [asdict(measures.metric(name)) for name in metrics],
            "primary": primary,
            "confidence": 0.95,
            "sizes": list(sizes.values()),
            "points": points,
        },
        [row for arm in arms for row in _rows(arm, sizes[arm.setting], known[arm.setting])],
        lambda path: draw_sizes(arms, examples, measures, metrics, path),
        [_table(arms, sizes, examples, measures, primary)],
        notes,
    )


def _label(size: int) -> str:
    return f"feedback_size={size}"


def _rows(arm: ArmOverSeeds, size: int, examples: int | None) -> list[dict[str, Any]]:
    return [
        {
            "feedback_size": size,
            "arm": arm.arm,
            "metric": name,
            "mean": m.mean,
            "low": m.interval[0] if m.interval else None,
            "high": m.interval[1] if m.interval else None,
            **{f"seed_{seed}": v for seed, v in zip(arm.seeds, m.values, strict=True)},
            "examples": examples,
        }
        for name, m in arm.metrics.items()
    ]


def _table(
    arms: Sequence[ArmOverSeeds],
    sizes: Mapping[str, int],
    examples: Mapping[str, int],
    measures: Measures,
    name: str,
) -> Table:
    metric = measures.metric(name)
    table = empty_table()
    table.title, table.title_justify = label_of(metric, measures), "left"
    table.add_column("feedback", justify="right")
    apart = sizes != examples
    if apart:
        table.add_column("examples", justify="right")
    table.add_column("arm")
    compares = any(arm.metrics[name].difference for arm in arms)
    for header in ("mean", *(["against baseline", "p"] if compares else [])):
        table.add_column(header, justify="right", no_wrap=True)
    shown: set[str] = set()
    for arm in sorted(arms, key=lambda arm: (touched(arm.arm), sizes[arm.setting])):
        if not touched(arm.arm) and arm.arm in shown:
            continue
        shown.add(arm.arm)
        counts = [sizes[arm.setting], examples[arm.setting]][: 1 + apart]
        told = [f"{count:,}" if touched(arm.arm) else "any" for count in counts]
        cells = [*told, arm.arm, with_interval(metric, arm.metrics[name])]
        cells += against_baseline(metric, arm.metrics[name]) if compares else []
        table.add_row(*map(Text, cells))
    notes = ["higher is better" if metric.higher_is_better else "lower is better"]
    if any(len(arm.seeds) > 1 for arm in arms):
        notes.append("±: 95 % interval over seeds")
        notes += ["p: paired t, Holm over all sizes and arms"] if compares else []
    if apart:
        notes.append("feedback: --feedback-size, of each source; examples: what that made in all")
    return captioned(table, notes)
