"""The token curve: a metric against tokens (images), and how many the baseline needs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import seed_interval
from vfunc.modality import Metric
from vfunc.report.events import read_events
from vfunc.report.measures import LOSS, Measures
from vfunc.report.table import BASELINE
from vfunc.studies.curves.curve_files import (
    Curve,
    folder_of,
    new_console,
    require_writable,
    told_of,
    write_curve,
)
from vfunc.studies.curves.curve_options import TokenOptions
from vfunc.studies.curves.figures.token_figure import draw_tokens
from vfunc.studies.curves.read_runs import arms_of, runs_of_one_setting
from vfunc.studies.curves.token_reach import Followed, Needed, needed_at
from vfunc.studies.curves.token_table import RULE, Tokens, first_place_notes, token_tables
from vfunc.studies.finished_runs import FoundRun, measures_of
from vfunc.training.run_directory import RunDirectory

KIND = "tokens"


def make(options: TokenOptions, rest: Sequence[str], command: str) -> None:
    """Read the runs, and write the curve.

    Args:
        options: the runs, and the metric.
        rest: nothing.
        command: the command line, for the record.

    Raises:
        UserError: runs that are not finished or not of one setting, or a metric that was not
            followed in them.
    """
    del rest
    require_writable(options.output)
    found = runs_of_one_setting(options.from_)
    arms = arms_of(found, options.arms)
    tokens = tokens_of(found, arms, options.metric, options.skip)
    write_curve(
        curve_of(tokens),
        told_of(found),
        command,
        folder_of([one.path for one in found], options.output),
        new_console(),
    )


def tokens_of(
    found: Sequence[FoundRun], arms: Sequence[str], wanted: str | None = None, skip: int = 0
) -> Tokens:
    """The curves of runs, and what the baseline needs.

    Args:
        found: runs of one setting, a seed each.
        arms: arms that all of them have.
        wanted: name of the metric; None takes the primary one where it was followed, else the loss.
        skip: evaluations of each curve that are left out, the first.

    Raises:
        UserError: the metric was not followed, or too little of it is left.
    """
    measures = measures_of(found)
    events = [read_events(RunDirectory(one.path).events) for one in found]
    metric = _metric(found, events, arms, measures, wanted)
    curves = {
        arm: tuple(_followed(logged, arm, metric, measures.unit) for logged in events)
        for arm in arms
    }
    for arm, of in curves.items():
        counts = {len(one.units) for one in of}
        if len(counts) > 1:
            raise UserError(
                f"the arm {arm} was evaluated {' and '.join(map(str, sorted(counts)))} times in "
                "these runs, which are to be one curve: give runs of one budget"
            )
    least = min(len(one.units) for of in curves.values() for one in of)
    if least - skip < 2:
        raise UserError(
            f"--skip {skip} leaves {max(least - skip, 0)} of {least} evaluations, and a curve "
            "needs two"
        )
    curves = {
        arm: tuple(Followed(one.units[skip:], one.values[skip:]) for one in of)
        for arm, of in curves.items()
    }
    better = metric.higher_is_better
    base = curves.get(BASELINE)
    others = [] if base is None else [arm for arm in arms if arm != BASELINE]
    needed, to_end = {}, {}
    for arm in others:
        assert base is not None
        own = curves[arm]
        # at the start all are the same
        places = range(0 if skip else 1, len(own[0].units))
        needed[arm] = tuple(needed_at(base, own, k, higher_is_better=better) for k in places)
        to_end[arm] = needed_at(own, base, -1, higher_is_better=better)
    seeds = tuple(one.seed_run.seed for one in found)
    return Tokens(metric, measures, seeds, curves, needed, to_end)


def curve_of(tokens: Tokens) -> Curve:
    """What is written and printed of these curves."""
    points = [
        _point(tokens, arm, k) for arm, of in tokens.curves.items() for k in range(len(of[0].units))
    ]
    notes = list[str]() if len(tokens.seeds) > 1 else ["One seed: no interval over seeds."]
    notes += first_place_notes(tokens)
    if not tokens.needed:
        notes.append(f"Without the arm {BASELINE} there is nothing to say of what it needs.")
    return Curve(
        KIND,
        {
            "unit": tokens.measures.unit,
            "metric": asdict(tokens.metric),
            "seeds": list(tokens.seeds),
            "confidence": 0.95,
            "rule": RULE,
            "points": points,
            "to_baselines_end": {arm: _told(found) for arm, found in tokens.to_end.items()},
        },
        [_row(tokens, point) for point in points],
        lambda path: draw_tokens(
            tokens.curves, tokens.needed, tokens.metric, tokens.measures, path
        ),
        token_tables(tokens),
        notes,
    )


def _metric(
    found: Sequence[FoundRun],
    events: Sequence[Sequence[Mapping[str, Any]]],
    arms: Sequence[str],
    measures: Measures,
    wanted: str | None,
) -> Metric:
    """The metric that is followed, the one wanted if one is.

    Raises:
        UserError: none is, or not the one that is wanted.
    """
    loss = measures.metric(LOSS)
    for one, logged in zip(found, events, strict=True):
        for arm in arms:
            if any(measures.unit not in event for event in logged if _evaluates(event, arm)):
                raise UserError(
                    f"{one.path}: an evaluation of {arm} in events.jsonl does not tell its "
                    f"{measures.unit}; restore the log from a copy, or leave the run out"
                )
            _require_end(one, logged, arm, measures.unit)
            if len(_followed(logged, arm, loss, measures.unit).units) < 3:
                raise UserError(
                    f"{one.path}: the arm {arm} was evaluated at its start and end alone "
                    "(--eval-every 0), which is no curve; run it again with --eval-every 0.1"
                )
    followed = [
        metric
        for metric in reversed(measures.metrics)
        if all(
            len(_followed(e, arm, metric, measures.unit).units) > 2 for e in events for arm in arms
        )
    ]
    names = [metric.name for metric in followed]
    if wanted is None:
        return followed[0] if followed[0] == measures.primary else loss
    if wanted not in names:
        raise UserError(
            f"--metric {wanted}: it is not measured in the course of training; give "
            f"{' or '.join(names)}"
        )
    return measures.metric(wanted)


def _require_end(one: FoundRun, events: Sequence[Mapping[str, Any]], arm: str, unit: str) -> None:
    """Refuse a log without an arm's last evaluation, as metrics.json tells where that was.

    Raises:
        UserError: the log has lost it.
    """
    end = one.content["arms"][arm][unit]
    if not any(_evaluates(event, arm) and float(event[unit]) == float(end) for event in events):
        raise UserError(
            f"{one.path}: events.jsonl has lost the last evaluation of {arm}, at {end:,} {unit} by "
            "metrics.json; restore the log from a copy, or leave the run out"
        )


def _followed(events: Sequence[Mapping[str, Any]], arm: str, metric: Metric, unit: str) -> Followed:
    """A metric of an arm at each of its evaluations, once a place."""
    name = "heldout_loss" if metric.name == LOSS else metric.name
    found: dict[float, float] = {}
    for event in events:
        if _evaluates(event, arm) and event.get(name) is not None:
            found[float(event[unit])] = float(event[name])
    places = sorted(found)
    return Followed(tuple(places), tuple(found[place] for place in places))


def _evaluates(event: Mapping[str, Any], arm: str) -> bool:
    return event.get("kind") == "evaluation" and event.get("arm") == arm


def _point(tokens: Tokens, arm: str, k: int) -> dict[str, Any]:
    of = tokens.curves[arm]
    values = [one.values[k] for one in of]
    found: dict[str, Any] = {
        "arm": arm,
        "place": k,
        tokens.measures.unit: [one.units[k] for one in of],
        "values": values,
        "mean": statistics.fmean(values),
        "interval": seed_interval(values),
    }
    needed = tokens.needed.get(arm, ())
    at = k - (len(of[0].units) - len(needed))  # the start has none
    if needed and at >= 0:
        found["baseline_needs"] = _told(needed[at])
    return found


def _told(found: Needed) -> dict[str, Any]:
    return {
        "needed": list(found.needed),
        "times": list(found.times),
        "reached": found.reached,
        "mean_needed": found.mean_needed,
        "mean_times": found.mean_times,
        "times_interval": found.times_interval,
    }


def _row(tokens: Tokens, point: Mapping[str, Any]) -> dict[str, Any]:
    unit = tokens.measures.unit
    low, high = point["interval"] or (None, None)
    needs = point.get("baseline_needs", {})
    return {
        "arm": point["arm"],
        "place": point["place"],
        unit: statistics.fmean(point[unit]),
        "mean": point["mean"],
        "low": low,
        "high": high,
        f"baseline_needs_{unit}": needs.get("mean_needed"),
        "times": needs.get("mean_times"),
        "reached": needs.get("reached"),
        **{f"seed_{s}": v for s, v in zip(tokens.seeds, point["values"], strict=True)},
    }
