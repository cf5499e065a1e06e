"""Agreement of predicted values with realised effects: correlations, slope, regret, intervals.

States are the first level and tasks the second: a figure is a mean over states (a ratio of sums,
for slope and regret), and its interval is the bootstrap's over both, states drawn with replacement
and, within each draw, its tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Paired:
    """Predictions and effects of the tasks of one state, both less those of the text as it is.

    Attributes:
        predicted: (draws, tasks); one draw but for an estimator that is random itself.
        effect: (tasks,) realised decreases of the loss.
    """

    predicted: Array
    effect: Array


@dataclass(frozen=True)
class Figure:
    """A number and its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Agreement:
    """How far an estimator's predictions agree with what happened.

    Attributes:
        spearman: rank correlation, mean over states; 0 where predictions do not differ.
        pearson: correlation, mean over states.
        slope: least-squares slope of the effects on the predictions within states: 1 is calibrated.
        regret: what picking the task with the highest prediction loses against the best one, over
            what a blind pick loses: 0 is the best pick, 1 a blind one. The text as it is can be
            picked too.
        lost: the same in units of the loss.
    """

    spearman: Figure
    pearson: Figure
    slope: Figure
    regret: Figure
    lost: Figure


@dataclass(frozen=True)
class Draws:
    """A bootstrap's draws, the same for every estimator.

    Attributes:
        states: (repeats, states) the state in each place of each repeat.
        tasks: for each state (places with this state, tasks) the tasks drawn, in order of places.
    """

    states: NDArray[np.int64]
    tasks: tuple[NDArray[np.int64], ...]


def draws_of(counts: Sequence[int], repeats: int, seed: int) -> Draws:
    """Draw states, and within each place its tasks, with replacement.

    Args:
        counts: number of tasks of each state.
        repeats: how many times.
        seed: of the draws.
    """
    source = np.random.default_rng(seed)
    states = source.integers(len(counts), size=(repeats, len(counts)))
    tasks = tuple(
        source.integers(count, size=(int((states == s).sum()), count))
        for s, count in enumerate(counts)
    )
    return Draws(states, tasks)


def agreement(pairs: Sequence[Paired], draws: Draws) -> Agreement:
    """Score predictions against effects.

    Args:
        pairs: one a state, none empty.
        draws: for these states' numbers of tasks.
    """
    none = Draws(
        np.arange(len(pairs))[None],
        tuple(np.arange(len(pair.effect))[None] for pair in pairs),
    )
    point, spread = _figures(pairs, none), _figures(pairs, draws)
    found: dict[str, Any] = {}
    for name, values in spread.items():
        low, high = np.quantile(values, (0.025, 0.975))
        found[name] = Figure(float(point[name][0]), float(low), float(high))
    return Agreement(**found)


def correlation(one: Array, other: Array) -> Array:
    """Pearson's correlation along the last axis; 0 where either is constant."""
    a, b = one - one.mean(-1, keepdims=True), other - other.mean(-1, keepdims=True)
    size = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    varies = (np.ptp(one, -1) > 0) & (np.ptp(other, -1) > 0) & (size > 0)
    return np.where(varies, (a * b).sum(-1) / np.where(varies, size, 1.0), 0.0)


def rank_correlation(one: Array, other: Array) -> Array:
    """Spearman's correlation along the last axis, ties at their mean rank."""
    return correlation(rankdata(one, axis=-1), rankdata(other, axis=-1))


def lost_by_picking(predicted: Array, effect: Array) -> tuple[Array, Array]:
    """What the pick of the highest prediction loses along the last axis, and what a blind one does.

    The text as it is, of prediction and effect 0, can be picked too; among equal predictions the
    pick is blind.
    """
    nothing = np.zeros((*np.broadcast_shapes(predicted.shape, effect.shape)[:-1], 1))
    whole = np.broadcast_shapes(predicted.shape, effect.shape)
    p = np.concatenate([np.broadcast_to(predicted, whole), nothing], -1)
    e = np.concatenate([np.broadcast_to(effect, whole), nothing], -1)
    best = e.max(-1)
    picked = p == p.max(-1, keepdims=True)
    taken = (e * picked).sum(-1) / picked.sum(-1)
    return best - taken, best - e.mean(-1)


def _figures(pairs: Sequence[Paired], draws: Draws) -> dict[str, Array]:
    """Each figure once a repeat."""
    measured: dict[str, Callable[[Array, Array], Array]] = {
        "spearman": rank_correlation,
        "pearson": correlation,
        "together": lambda p, e: _products(p, e)[0],
        "alone": lambda p, e: _products(p, e)[1],
        "lost": lambda p, e: lost_by_picking(p, e)[0],
        "blind": lambda p, e: lost_by_picking(p, e)[1],
    }
    placed = {name: np.empty(draws.states.shape) for name in measured}
    for s, (pair, tasks) in enumerate(zip(pairs, draws.tasks, strict=True)):
        where = draws.states == s
        predicted, effect = pair.predicted[:, tasks], pair.effect[tasks][None]
        for name, measure in measured.items():
            placed[name][where] = measure(predicted, effect).mean(0)
    total = {name: values.mean(-1) for name, values in placed.items()}
    return {
        "spearman": total["spearman"],
        "pearson": total["pearson"],
        "slope": _ratio(total["together"], total["alone"]),
        "regret": _ratio(total["lost"], total["blind"]),
        "lost": total["lost"],
    }


def _products(predicted: Array, effect: Array) -> tuple[Array, Array]:
    varies = np.ptp(predicted, -1, keepdims=True) > 0  # a constant's mean is off by rounding
    p = np.where(varies, predicted - predicted.mean(-1, keepdims=True), 0.0)
    return (p * (effect - effect.mean(-1, keepdims=True))).sum(-1), (p * p).sum(-1)


def _ratio(above: Array, below: Array) -> Array:
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)
