"""Scores of every row, on every measure and horizon, from what was measured at the states."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vfunc.studies.score.rank_agreement import Agreement, Array, Draws, Paired, agreement, draws_of

SAME, OTHER = "effect on the feedback used", "effect on other feedback"
"""Rows that are no estimators: they know what happened, on one half of the feedback."""
LEAST = 3
"""Tasks below which a state is no basis for a correlation."""


@dataclass(frozen=True)
class Scored:
    """One reading of one row, on one measure at one horizon.

    Attributes:
        row: the estimator and its options.
        reading: what its prediction was read off; "" where a row has but one.
        measure: what the effect was measured on.
        horizon: learner steps.
        states: how many states it is from.
        agreement: the score.
        share: of tasks at this distance from the text alone; None is of all.
    """

    row: str
    reading: str
    measure: str
    horizon: int
    states: int
    agreement: Agreement
    share: float | None = None

    def as_json(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def scored(states: Sequence[Mapping[str, Any]], resamples: int, seed: int = 0) -> list[Scored]:
    """Score all rows.

    Args:
        states: what `measure_state` found, of the same rows, measures and horizons.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    measures, horizons = states[0]["measures"], states[0]["horizons"]
    effects = [effects_of(state) for state in states]
    shares = [np.array([task["share"] for task in state["tasks"]]) for state in states]
    drawn: dict[tuple[int, ...], Draws] = {}

    def of(pairs: Sequence[Paired]) -> Agreement:
        counts = tuple(len(pair.effect) for pair in pairs)
        if counts not in drawn:
            drawn[counts] = draws_of(counts, resamples, seed)
        return agreement(pairs, drawn[counts])

    found: list[Scored] = []
    for (m, measure), (h, horizon) in itertools.product(enumerate(measures), enumerate(horizons)):
        happened = [effect[:, m, h] for effect in effects]
        apart = distances(states) if measure == "test" else ()
        for (row, reading), predicted in _rows(states, effects, measures, measure, h).items():
            for share in (None, *apart):
                pairs = [
                    pair
                    for p, e, s in zip(predicted, happened, shares, strict=True)
                    if p is not None and len((pair := _finite(p, e, s, share)).effect) >= LEAST
                ]
                if pairs:
                    one = of(pairs)
                    found.append(Scored(row, reading, measure, horizon, len(pairs), one, share))
    return found


def distances(states: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """The shares at which tasks are mixed into the text, increasing; none if all are alike."""
    known = sorted({float(task["share"]) for state in states for task in state["tasks"]})
    return tuple(known) if len(known) > 1 else ()


def left_out(states: Sequence[Mapping[str, Any]]) -> int:
    """How many tasks ended in losses that are not finite, at some horizon."""
    return sum(int((~np.isfinite(effects_of(state))).any((1, 2)).sum()) for state in states)


def effects_of(state: Mapping[str, Any]) -> Array:
    """(tasks, measures, horizons) decreases against the batches as they are."""
    losses = np.array(state["losses"], dtype=np.float64)
    return losses[0] - losses[1:]


def _rows(
    states: Sequence[Mapping[str, Any]],
    effects: Sequence[Array],
    measures: Sequence[str],
    measure: str,
    h: int,
) -> dict[tuple[str, str], list[Array | None]]:
    """(draws, tasks) predictions of each row and reading, once a state; None where it has none."""
    names = dict.fromkeys(
        (row, reading)
        for state in states
        for row in state["predicted"]
        for reading in state["predicted"][row]
    )
    found: dict[tuple[str, str], list[Array | None]] = {}
    for row, reading in names:
        asked = [state["predicted"].get(row, {}).get(reading) for state in states]
        found[row, reading] = [None if p is None else np.array(p, dtype=np.float64) for p in asked]
    for label, half in ((OTHER, "other"), (SAME, "used")):
        if half != measure:
            known = measures.index(half)
            found[label, ""] = [effect[None, :, known, h] for effect in effects]
    return found


def _finite(predicted: Array, effect: Array, shares: Array, share: float | None) -> Paired:
    kept = np.isfinite(effect) & np.isfinite(predicted).all(0)
    if share is not None:
        kept &= shares == share
    return Paired(predicted[:, kept], effect[kept])
