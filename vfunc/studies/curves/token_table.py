"""Tables of the token curve: what the baseline needs to be as good as another arm."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from vfunc.evaluation.pass_at_k import seed_interval
from vfunc.modality import Metric
from vfunc.report.measures import Measures, written
from vfunc.report.table import BASELINE, NONE, captioned, empty_table, si
from vfunc.studies.curves.curve_words import label_of
from vfunc.studies.curves.token_reach import Followed, Needed

RULE = (
    "the first place at which the curve, taken as straight lines between its evaluations, is as "
    "good"
)


@dataclass(frozen=True)
class Tokens:
    """A metric of several arms against tokens (images), over seeds.

    Attributes:
        metric: the metric.
        measures: the runs' metrics, and their unit.
        seeds: the seeds, in the order of all curves.
        curves: each arm's, one a seed.
        needed: of each arm but the baseline, at each of its evaluations behind the start, what the
            baseline needs to be as good; empty without a baseline.
        to_end: of each arm but the baseline, what it needs to be as good as the baseline at its
            end.
    """

    metric: Metric
    measures: Measures
    seeds: tuple[int, ...]
    curves: Mapping[str, tuple[Followed, ...]]
    needed: Mapping[str, tuple[Needed, ...]]
    to_end: Mapping[str, Needed]


def token_tables(tokens: Tokens) -> list[Table]:
    """What the baseline needs at each evaluation, and what arms need for the baseline's end."""
    metric, unit = tokens.metric, tokens.measures.unit
    if not tokens.needed:
        return []
    table = empty_table()
    table.title, table.title_justify = label_of(metric, tokens.measures), "left"
    table.add_column("arm")
    for header in (unit, "mean", f"baseline\nneeds, {unit}", "times as\nmany"):
        table.add_column(header, justify="right", no_wrap=True)
    for arm, of in tokens.needed.items():
        for one in of:
            cells = [arm, si(statistics.fmean(one.units)), _with_reach(metric, one.values)]
            table.add_row(*map(Text, [*cells, *_needs(one)]))
    notes = [f"baseline needs: {RULE}", _ups(metric)]
    ends = empty_table()
    ends.title, ends.title_justify = f"{unit} to be as good as the baseline at its end", "left"
    ends.add_column("arm")
    for header in (unit, "baseline read", "share"):
        ends.add_column(header, justify="right", no_wrap=True)
    for arm, one in tokens.to_end.items():
        mean, share = one.mean_needed, one.mean_times
        cells = [
            _never(one) if mean is None else si(mean),
            si(statistics.fmean(one.units)),
            NONE if share is None else f"{share:.2f}{_half(one.times_interval)}",
        ]
        ends.add_row(*map(Text, [arm, *cells]))
    return [captioned(table, notes), captioned(ends, [])]


def first_place_notes(tokens: Tokens) -> list[str]:
    """Where an arm is as good at the first place of its curve, which says little of what it needs.

    The first places are those of the same seed: with evaluations left out they need not be equal.
    """
    base = tokens.curves.get(BASELINE, ())
    notes = []
    if found := _first_places(base, [one for of in tokens.needed.values() for one in of]):
        notes.append(
            f"The baseline is as good {_at(found, tokens)}, at the first place of its curve, as "
            "another arm is later: then it needs no more than that (--skip leaves the first places "
            "out)."
        )
    for arm, one in tokens.to_end.items():
        if found := _first_places(tokens.curves[arm], [one]):
            notes.append(
                f"{arm} is as good {_at(found, tokens)}, at the first place of its curve, as the "
                "baseline at its end: it may need less than that."
            )
    return notes


def _first_places(curves: Sequence[Followed], needed: Sequence[Needed]) -> list[float]:
    """The first places, of the seeds' curves, that are all that is needed."""
    return sorted(
        {
            curve.units[0]
            for one in needed
            for curve, place in zip(curves, one.needed, strict=True)
            if place == curve.units[0]
        }
    )


def _at(places: Sequence[float], tokens: Tokens) -> str:
    if not any(places):
        return "untrained"
    told = dict.fromkeys(si(place) for place in places)
    return f"at {' or '.join(told)} {tokens.measures.unit}"


def _needs(one: Needed) -> list[str]:
    if one.mean_needed is None:
        return [_never(one), NONE]
    times = one.mean_times
    return [
        si(one.mean_needed),
        NONE if times is None else f"{times:.2f}{_half(one.times_interval)}",
    ]


def _never(one: Needed) -> str:
    return f"in {one.reached} of {len(one.needed)} seeds" if one.reached else "never"


def _with_reach(metric: Metric, values: Sequence[float]) -> str:
    interval = seed_interval(values)
    half = "" if interval is None else f" ± {written(metric, (interval[1] - interval[0]) / 2)}"
    return written(metric, statistics.fmean(values)) + half


def _half(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" ± {(interval[1] - interval[0]) / 2:.2f}"


def _ups(metric: Metric) -> str:
    return "higher is better" if metric.higher_is_better else "lower is better"
