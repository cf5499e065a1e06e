"""Estimates Pass@k without bias, and the uncertainty of compared figures.

Two kinds of uncertainty are kept apart: over the problems of one run (`mean_and_standard_error`,
`paired_difference`) and over the seeds of several (`seed_interval`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from vfunc.errors import UserError
from vfunc.typecheck import typed

Number = float | int
_ROUNDING = 1e-12
"""Spread of differences, as a share of the numbers, that is put down to rounding."""


class PairedDifference(NamedTuple):
    """What `paired_difference` returns: a - b, its standard error, and the two-sided p value."""

    difference: float
    standard_error: float
    p_value: float


@typed
def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The chance that at least one of k completions is right, estimated from n of them.

    1 - C(n - c, k) / C(n, k), the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374,
    eq. 1). It is computed in integers and rounded once, so that no n is too large for it.

    Args:
        samples: n, completions sampled for one problem.
        correct: c, how many of them are right.
        k: completions that one may try, from 1 to n.

    Returns:
        The estimate, from 0 to 1.

    Raises:
        UserError: k is not between 1 and n, or c is not between 0 and n.
    """
    if not 1 <= k <= samples:
        raise UserError(f"pass@{k} needs 1 <= k <= samples, but there are {samples} samples.")
    if not 0 <= correct <= samples:
        raise UserError(f"{correct} correct of {samples} samples: there must be 0 to {samples}.")
    ways = math.comb(samples, k)
    return (ways - math.comb(samples - correct, k)) / ways


@typed
def mean_and_standard_error(values: Sequence[Number]) -> tuple[float, float | None]:
    """Mean over problems, and its standard error s / sqrt(n) (s with n - 1 degrees of freedom).

    Args:
        values: one number a problem.

    Returns:
        The mean, and its standard error: None for a single value, which has no spread.

    Raises:
        UserError: no values, or one that is not finite.
    """
    sample = _finite(values, "values")
    return float(sample.mean()), float(stats.sem(sample)) if len(sample) > 1 else None


@typed
def paired_difference(a: Sequence[Number], b: Sequence[Number]) -> PairedDifference:
    """Compare two arms on the same problems.

    The p value is exact for outcomes that are all 0 or 1 (McNemar's test: of the problems on which
    the arms disagree, each arm wins a Binomial(n, 1/2) number); otherwise it is that of the paired
    t test. The standard error is that of the mean of the differences in both cases.

    Args:
        a: one arm's numbers, one a problem.
        b: the other arm's numbers, in the same order.

    Returns:
        mean(a) - mean(b), its standard error, and the two-sided p value.

    Raises:
        UserError: unequal lengths, fewer than two problems, or a value that is not finite.
    """
    if len(a) != len(b):
        raise UserError(
            f"a paired comparison of {len(a)} with {len(b)} problems: pass the same problems twice."
        )
    first, second = _finite(a, "values of a"), _finite(b, "values of b")
    if len(first) < 2:
        raise UserError("a paired comparison needs at least 2 problems, and there is 1.")
    differences = first - second
    error = float(stats.sem(differences))
    if np.isin(first, (0, 1)).all() and np.isin(second, (0, 1)).all():
        wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
        p_value = stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    elif np.ptp(differences) == 0:  # the t statistic is 0/0 or infinite
        p_value, error = float(differences[0] == 0), 0.0
    else:
        p_value = stats.ttest_rel(first, second).pvalue
    return PairedDifference(float(differences.mean()), error, float(p_value))


@typed
def paired_t(a: Sequence[Number], b: Sequence[Number]) -> float | None:
    """The two-sided p value of the paired t test, where it is defined.

    Args:
        a: one arm's numbers, one a seed or problem.
        b: the other arm's, in the same order.

    Returns:
        The p value: 1 where all pairs are equal; None for a single pair, and where the differences
        are all equal, but for rounding, without being 0: without a spread, t is not defined.

    Raises:
        UserError: no numbers, or one that is not finite.
    """
    first, second = _finite(a, "values of a"), _finite(b, "values of b")
    differences = first - second
    if len(differences) < 2:
        return None
    if np.ptp(differences) > _ROUNDING * max(abs(first).max(), abs(second).max()):
        return float(stats.ttest_rel(first, second).pvalue)
    return None if differences.any() else 1.0


@typed
def holm(p_values: Sequence[Number]) -> list[float]:
    """Adjust p values for multiple comparisons (Holm 1979, a step-down Bonferroni).

    The family-wise error rate stays below a level if what is below it after adjustment is called
    significant, whatever the dependence between the tests.

    Args:
        p_values: p values of the family's tests.

    Returns:
        The adjusted p values, in the order given.

    Raises:
        UserError: no p values, or one outside [0, 1].
    """
    p = _finite(p_values, "p values")
    if (p < 0).any() or (p > 1).any():
        raise UserError("p values must be from 0 to 1.")
    order = np.argsort(p, kind="stable")
    steps = np.minimum(1.0, p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.maximum.accumulate(steps)
    return adjusted.tolist()


@typed
def seed_interval(values: Sequence[Number], confidence: float = 0.95) -> tuple[float, float] | None:
    """A confidence interval for the mean over seeds, by Student's t.

    Args:
        values: one number a seed.
        confidence: the interval's coverage, between 0 and 1.

    Returns:
        Its lower and upper end, or None for one seed, which says nothing about others.

    Raises:
        UserError: no values, one that is not finite, or a confidence not between 0 and 1.
    """
    if not 0 < confidence < 1:
        raise UserError(f"confidence {confidence} must lie between 0 and 1.")
    sample = _finite(values, "seeds")
    if len(sample) < 2:
        return None
    reach = stats.t.ppf((1 + confidence) / 2, len(sample) - 1) * stats.sem(sample)
    return float(sample.mean() - reach), float(sample.mean() + reach)


def _finite(values: Sequence[Number], what: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if not array.size:
        raise UserError(f"no {what}: at least one is needed.")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise UserError(f"the {what} must be finite: number {where} is {array[where]}.")
    return array
