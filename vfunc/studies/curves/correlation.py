"""Correlates predictions with what happened, with bootstrap intervals."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from vfunc.evaluation.pass_at_k import seed_interval
from vfunc.evaluation.probe import MINIMUM


@dataclass(frozen=True)
class Correlated:
    """Pearson's and Spearman's correlation of two figures over tasks.

    Attributes:
        count: tasks.
        pearson: None where it says nothing: a constant, or fewer than `MINIMUM` tasks.
        interval: 95 % percentile bootstrap interval of `pearson`, tasks drawn with replacement.
        spearman: rank correlation, None likewise.
    """

    count: int
    pearson: float | None
    interval: tuple[float, float] | None
    spearman: float | None


@dataclass(frozen=True)
class Agreement:
    """Predicted and realised decreases of one kind of step, over all runs.

    Attributes:
        each: the correlation within each run.
        pearson: of several runs their mean by Fisher's z, see `over_runs`; None where one is not
            defined.
        interval: 95 %: the bootstrap's over tasks of one run; see `over_runs` for several.
        spearman: mean rank correlation.
        predicted: mean predicted decrease, over all.
        realised: mean decrease that the step brought.
    """

    each: tuple[Correlated, ...]
    pearson: float | None
    interval: tuple[float, float] | None
    spearman: float | None
    predicted: float
    realised: float


def correlated(
    predicted: Sequence[float], realised: Sequence[float], resamples: int, seed: int = 0
) -> Correlated:
    """Correlate predictions with what happened.

    Args:
        predicted: finite numbers, one a task.
        realised: as many.
        resamples: bootstrap draws.
        seed: of the draws.
    """
    x, y = np.asarray(predicted, dtype=float), np.asarray(realised, dtype=float)
    if len(x) < MINIMUM or np.ptp(x) == 0 or np.ptp(y) == 0:
        return Correlated(len(x), None, None, None)
    # scipy's own result types declare no attributes
    pearson: Any = stats.pearsonr(x, y)
    spearman: Any = stats.spearmanr(x, y)
    drawn = np.random.default_rng(seed).integers(len(x), size=(resamples, len(x)))
    interval = np.nanquantile(_along_rows(x[drawn], y[drawn]), (0.025, 0.975))
    return Correlated(
        len(x),
        float(pearson.statistic),
        (float(interval[0]), float(interval[1])),
        float(spearman.statistic),
    )


def over_runs(correlations: Sequence[float]) -> tuple[float, tuple[float, float]]:
    """The mean correlation of two or more runs, and its 95 % interval.

    Both are of Fisher's z = artanh r, brought back: the mean, and Student's interval of it. So they
    stay between -1 and 1, and the mean lies within.
    """
    most = 1 - 1e-12  # of r = 1 z is infinite
    z = [math.atanh(min(max(r, -most), most)) for r in correlations]
    ends = seed_interval(z)
    assert ends is not None
    return math.tanh(statistics.fmean(z)), (math.tanh(ends[0]), math.tanh(ends[1]))


def agreement_of(runs: Sequence[Sequence[tuple[float, float]]], resamples: int) -> Agreement:
    """How predictions agree with what happened, over runs.

    Args:
        runs: each run's predicted and realised decreases, a pair a task.
        resamples: bootstrap draws.
    """
    each = tuple(
        correlated([p for p, _ in pairs], [r for _, r in pairs], resamples) for pairs in runs
    )
    pearsons = [one.pearson for one in each if one.pearson is not None]
    spearmans = [one.spearman for one in each if one.spearman is not None]
    pearson, interval = each[0].pearson, each[0].interval
    if len(each) > 1:
        pearson, interval = over_runs(pearsons) if len(pearsons) == len(each) else (None, None)
    every = [pair for pairs in runs for pair in pairs]
    return Agreement(
        each,
        pearson,
        interval,
        statistics.fmean(spearmans) if len(spearmans) == len(each) else None,
        statistics.fmean(p for p, _ in every),
        statistics.fmean(r for _, r in every),
    )


def _along_rows(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's correlation of each row; nan where a draw holds one value alone."""
    a, b = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    size = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    return np.divide((a * b).sum(1), size, out=np.full(len(x), np.nan), where=size > 0)
