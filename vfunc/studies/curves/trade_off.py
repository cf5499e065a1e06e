"""The trade-off curve: segmentation against depth, by their weights in the feedback loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from vfunc.config.command_line import last_value
from vfunc.errors import UserError
from vfunc.report.measures import Measures
from vfunc.report.seed_statistics import ArmOverSeeds, Measured, common_metrics
from vfunc.report.table import captioned, empty_table
from vfunc.studies.curves.curve_files import Curve, new_console, told_of, write_curve
from vfunc.studies.curves.curve_options import TradeOffOptions, weights_of
from vfunc.studies.curves.curve_words import against_baseline, label_of, seeds_notes, with_interval
from vfunc.studies.curves.figures.trade_off_figure import Place, draw_trade_off
from vfunc.studies.curves.swept_runs import Swept, swept, touched
from vfunc.studies.finished_runs import FoundRun, measures_of
from vfunc.studies.repetition import PlannedRun, Setting
from vfunc.training.options.run_options import VISION

KIND = "trade-off"
SEGMENTATION, DEPTH = "miou", "rmse"
"""The metrics of the two tasks, as metrics.json names them."""


@dataclass(frozen=True)
class Weighted:
    """An arm at one pair of weights.

    Attributes:
        weights: of segmentation and depth; None of an arm that sees no feedback.
        arm: the arm over its seeds.
        front: whether it is on the Pareto front of all.
    """

    weights: tuple[float, float] | None
    arm: ArmOverSeeds
    front: bool = False

    @property
    def figures(self) -> tuple[float, float]:
        """Means of mIoU and RMSE."""
        return self.arm.metrics[SEGMENTATION].mean, self.arm.metrics[DEPTH].mean

    @property
    def label(self) -> str:
        """The weights in words: "1 : 8"."""
        return "" if self.weights is None else " : ".join(map(_exact, self.weights))


def make(options: TradeOffOptions, rest: Sequence[str], command: str) -> None:
    """Make the runs that are missing, and write the curve.

    Args:
        options: the weights, and the curve.
        rest: arguments of `run`, the same for all runs.
        command: the command line, for the record.

    Raises:
        UserError: see `swept`; or the runs are of no pictures with both labels.
    """
    console = new_console()
    pairs = {_label(pair): pair for pair in map(weights_of, options.weights)}
    settings = [
        Setting(
            ("segmentation_weight", "depth_weight"),
            label,
            ("--segmentation-weight", _exact(a), "--depth-weight", _exact(b)),
        )
        for label, (a, b) in pairs.items()
    ]
    said = any(last_value(rest, name) for name in ("modality", "preset", "config"))
    made = swept(
        settings,
        options,
        rest if said else ["--modality", VISION, *rest],
        console,
        study=f"curve-{KIND}",
        refuse=_require_pictures,
        look=_require_both,
    )
    if made is None:
        return
    folder = made.folder if options.output is None else Path(options.output)
    write_curve(curve_of(made, pairs), told_of(made.found), command, folder, console)


def curve_of(made: Swept, pairs: Mapping[str, tuple[float, float]]) -> Curve:
    """The curve of these runs.

    Args:
        made: the runs.
        pairs: the weights that each setting's label stands for.
    """
    measures = measures_of(made.found)
    points = weighted(made.compared, pairs)
    return Curve(
        KIND,
        {
            "metrics": [asdict(measures.metric(name)) for name in (SEGMENTATION, DEPTH)],
            "confidence": 0.95,
            "points": [
                {
                    "segmentation_weight": p.weights and p.weights[0],
                    "depth_weight": p.weights and p.weights[1],
                    "arm": p.arm.arm,
                    "seeds": list(p.arm.seeds),
                    "on_front": p.front,
                    **{name: asdict(p.arm.metrics[name]) for name in (SEGMENTATION, DEPTH)},
                }
                for p in points
            ],
        },
        [_row(point) for point in points],
        lambda path: draw_trade_off(_places(points), measures, (SEGMENTATION, DEPTH), path),
        [_table(points, measures)],
        seeds_notes([p.arm for p in points]),
    )


def weighted(
    arms: Sequence[ArmOverSeeds], pairs: Mapping[str, tuple[float, float]]
) -> list[Weighted]:
    """The points of the curve, those of the Pareto front marked.

    Args:
        arms: every arm in every setting; one that sees no feedback is the same in all.
        pairs: the weights that each setting's label stands for.
    """
    still: dict[str, ArmOverSeeds] = {}
    for arm in arms:
        if not touched(arm.arm):
            still.setdefault(arm.arm, arm)
    points = [Weighted(None, arm) for arm in still.values()]
    points += [Weighted(pairs[arm.setting], arm) for arm in arms if touched(arm.arm)]
    front = on_front([point.figures for point in points])
    return [Weighted(p.weights, p.arm, f) for p, f in zip(points, front, strict=True)]


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other is at least as good as in both figures, and better in one.

    Equal points are on the front together, or not at all.

    Args:
        points: two figures each, of which the first is better when higher, the second when lower.
    """
    return [not any(a >= x and b <= y and (a > x or b < y) for a, b in points) for x, y in points]


def _label(pair: tuple[float, float]) -> str:
    return "segmentation_weight={}, depth_weight={}".format(*map(_exact, pair))


def _exact(weight: float) -> str:
    """A weight in as few digits as give it again: two weights never look the same."""
    short = f"{weight:g}"
    return short if float(short) == weight else repr(weight)


def _require_pictures(planned: Sequence[PlannedRun]) -> None:
    if planned[0].config.run.modality != VISION:
        raise UserError(
            "trade-off is of pictures with labels of segmentation and depth; give --modality vision"
        )


def _require_both(found: Sequence[FoundRun]) -> None:
    measures = measures_of(found)
    held = {metric.name for metric in common_metrics([f.seed_run for f in found], measures)}
    missing = [name for name in (SEGMENTATION, DEPTH) if name not in held]
    if missing:
        raise UserError(
            f"trade-off needs pictures with both labels, and {' and '.join(missing)} was not "
            "measured; give --labels segmentation depth, or --feedback with both"
        )


def _row(point: Weighted) -> dict[str, Any]:
    found: dict[str, Any] = {
        "segmentation_weight": point.weights and point.weights[0],
        "depth_weight": point.weights and point.weights[1],
        "arm": point.arm.arm,
        "on_front": point.front,
    }
    for name in (SEGMENTATION, DEPTH):
        m = point.arm.metrics[name]
        low, high = m.interval or (None, None)
        found |= {name: m.mean, f"{name}_low": low, f"{name}_high": high}
        seeds = zip(point.arm.seeds, m.values, strict=True)
        found |= {f"{name}_seed_{seed}": value for seed, value in seeds}
    return found


def _places(points: Sequence[Weighted]) -> list[Place]:
    def end(m: Measured) -> tuple[float, float]:
        return m.interval or (m.mean, m.mean)

    return [
        Place(
            p.arm.arm,
            p.label,
            p.figures,
            (end(p.arm.metrics[SEGMENTATION]), end(p.arm.metrics[DEPTH])),
            p.front,
        )
        for p in points
    ]


def _table(points: Sequence[Weighted], measures: Measures) -> Table:
    table = empty_table()
    table.title, table.title_justify = "segmentation : depth", "left"
    table.add_column("weights", justify="right")
    table.add_column("arm")
    compares = any(p.arm.metrics[DEPTH].difference for p in points)
    metrics = [measures.metric(name) for name in (SEGMENTATION, DEPTH)]
    for metric in metrics:
        table.add_column(label_of(metric, measures), justify="right", no_wrap=True)
        if compares:
            table.add_column("against\nbaseline", justify="right", no_wrap=True)
    table.add_column("front", justify="center")
    for p in points:
        cells = [p.label or "any", p.arm.arm]
        for metric in metrics:
            m = p.arm.metrics[metric.name]
            cells += [with_interval(metric, m)]
            cells += against_baseline(metric, m)[:1] if compares else []
        table.add_row(*map(Text, [*cells, "*" if p.front else ""]))
    notes = ["*: on the Pareto front (mIoU up, RMSE down)"]
    if any(len(p.arm.seeds) > 1 for p in points):
        notes.append("±: 95 % interval over seeds")
    return captioned(table, notes)
