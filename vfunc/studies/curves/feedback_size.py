"""The feedback-size curve: how well arms do with fewer and more labelled examples."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.report.measures import Measures
from vfunc.report.seed_statistics import ArmOverSeeds
from vfunc.report.table import captioned, empty_table
from vfunc.studies.comparison_files import primary_of
from vfunc.studies.curves.curve_files import Curve, new_console, told_of, write_curve
from vfunc.studies.curves.curve_options import FeedbackSizeOptions
from vfunc.studies.curves.curve_words import against_baseline, label_of, seeds_notes, with_interval
from vfunc.studies.curves.figures.size_figure import draw_sizes
from vfunc.studies.curves.swept_runs import Data, Swept, swept, touched
from vfunc.studies.finished_runs import FoundRun, measures_of
from vfunc.studies.repetition import Setting

KIND = "feedback-size"
ALSO_FEEDBACK = "also in the feedback"
"""Why a run leaves a held-out example out."""


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

    def look_at_data(data: Mapping[str, Data]) -> None:
        require_larger({sizes[label]: d for label, d in data.items() if label})
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
    there = {
        size: feedback_examples(made.of(label)[0].content.get("data", {}))
        for label, size in sizes.items()
    }
    metrics = sorted(arms[0].metrics, key=lambda name: name != primary)
    points = [
        {"feedback_size": sizes[arm.setting], "examples": there[sizes[arm.setting]]}
        | {k: v for k, v in asdict(arm).items() if k in ("arm", "seeds", "metrics")}
        for arm in arms
    ]
    notes = seeds_notes(arms)
    if any(not touched(arm.arm) for arm in arms):
        still = ", ".join(dict.fromkeys(arm.arm for arm in arms if not touched(arm.arm)))
        notes.append(f"{still}: one run a seed for all sizes, since it sees no feedback.")
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
        [row for arm in arms for row in _rows(arm, sizes[arm.setting])],
        lambda path: draw_sizes(arms, sizes, measures, metrics, path),
        [_table(arms, sizes, measures, primary)],
        notes,
    )


def feedback_examples(data: Data) -> int | None:
    """How many labelled examples a run's feedback holds, by what it says of its data."""
    if "feedback" in data:
        return data["feedback"].get("sequences")
    counts = [source["pictures"]["feedback"] for source in data.get("sources", ())]
    return min(counts) if counts else None


def require_larger(data: Mapping[int, Data]) -> None:
    """Refuse sizes of which the data hold no more than of a smaller one.

    Args:
        data: what the runs of each size say of their data.

    Raises:
        UserError: there are two such sizes.
    """
    there = [(size, n) for size in sorted(data) if (n := feedback_examples(data[size]))]
    for (size, n), (larger, m) in itertools.pairwise(there):
        if m <= n:
            raise UserError(
                f"--sizes {larger}: the feedback holds {m} examples, as with {size}; leave the "
                "larger size out, or give more examples"
            )


def require_same_evaluation(data: Mapping[str, Data]) -> None:
    """Refuse settings that are judged on other held-out examples, or trained on another stream.

    Held-out examples that are feedback too are left out of a run, and a larger pool has more.

    Args:
        data: what the runs of each setting say of their data.

    Raises:
        UserError: two say something else of what is no feedback.
    """
    labels = list(data)
    for label in labels:
        # of two pools that leave out as many it may be other ones
        left = data[label].get("eval", {}).get("dropped", {}).get(ALSO_FEEDBACK)
        if left or without_feedback(data[label]) != without_feedback(data[labels[0]]):
            raise UserError(
                "which examples are held out depends on the size of the feedback, since some are "
                f"in both ({label or 'the shared runs'}); give --eval examples that are not in "
                "--feedback"
            )


def without_feedback(data: Data) -> dict[str, Any]:
    """What a run says of its data, but for its feedback."""
    kept: dict[str, Any] = {}
    for name, said in data.items():
        if name == "feedback":
            continue
        if name in ("sources", "pictures"):
            said = (
                [without_feedback(source) for source in said]
                if name == "sources"
                else {role: count for role, count in said.items() if role != "feedback"}
            )
        kept[name] = said
    return kept


def _label(size: int) -> str:
    return f"feedback_size={size}"


def _rows(arm: ArmOverSeeds, size: int) -> list[dict[str, Any]]:
    return [
        {
            "feedback_size": size,
            "arm": arm.arm,
            "metric": name,
            "mean": m.mean,
            "low": m.interval[0] if m.interval else None,
            "high": m.interval[1] if m.interval else None,
            **{f"seed_{seed}": v for seed, v in zip(arm.seeds, m.values, strict=True)},
        }
        for name, m in arm.metrics.items()
    ]


def _table(
    arms: Sequence[ArmOverSeeds], sizes: Mapping[str, int], measures: Measures, name: str
) -> Table:
    metric = measures.metric(name)
    table = empty_table()
    table.title, table.title_justify = label_of(metric, measures), "left"
    table.add_column("feedback", justify="right")
    table.add_column("arm")
    compares = any(arm.metrics[name].difference for arm in arms)
    for header in ("mean", *(["against baseline", "p"] if compares else [])):
        table.add_column(header, justify="right", no_wrap=True)
    shown: set[str] = set()
    for arm in sorted(arms, key=lambda arm: (touched(arm.arm), sizes[arm.setting])):
        if not touched(arm.arm) and arm.arm in shown:
            continue
        shown.add(arm.arm)
        size = f"{sizes[arm.setting]:,}" if touched(arm.arm) else "any"
        cells = [size, arm.arm, with_interval(metric, arm.metrics[name])]
        cells += against_baseline(metric, arm.metrics[name]) if compares else []
        table.add_row(*map(Text, cells))
    notes = ["higher is better" if metric.higher_is_better else "lower is better"]
    if any(len(arm.seeds) > 1 for arm in arms):
        notes.append("±: 95 % interval over seeds")
        notes += ["p: paired t, Holm over all sizes and arms"] if compares else []
    return captioned(table, notes)
