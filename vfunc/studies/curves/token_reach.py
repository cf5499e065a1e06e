"""Finds where a curve first is as good as a level, and how many tokens that takes over seeds."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import seed_interval


@dataclass(frozen=True)
class Followed:
    """A metric of one arm in the course of one run.

    Attributes:
        units: tokens (images) read at each evaluation, ascending; the first is the start.
        values: the metric there.
    """

    units: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Needed:
    """What one arm needs to be as good as another is at one place, seed by seed.

    Attributes:
        units: tokens (images) that the other has read there.
        values: the other's metric there.
        needed: what the arm has read where it first is as good; None where it never is.
        times: `needed` over `units`; None where the arm never is as good, or the other has read
            nothing.
    """

    units: tuple[float, ...]
    values: tuple[float, ...]
    needed: tuple[float | None, ...]
    times: tuple[float | None, ...]

    @property
    def reached(self) -> int:
        """The number of seeds in which the arm is as good at some place."""
        return sum(found is not None for found in self.needed)

    @property
    def mean_needed(self) -> float | None:
        """Mean over seeds; None where one never is as good, of which no mean is known."""
        return _mean(self.needed)

    @property
    def mean_times(self) -> float | None:
        """The same of `times`."""
        return _mean(self.times)

    @property
    def times_interval(self) -> tuple[float, float] | None:
        """Student's 95 % interval of `mean_times`; None for one seed."""
        known = [x for x in self.times if x is not None]
        return seed_interval(known) if len(known) == len(self.times) else None


def first_reach(
    units: Sequence[float], values: Sequence[float], level: float, *, higher_is_better: bool
) -> float | None:
    """Where a curve, taken as straight lines between its points, first is as good as a level.

    Args:
        units: places of its points, ascending.
        values: the metric there.
        level: the level.
        higher_is_better: direction of the metric.

    Returns:
        The place; None where the curve is worse throughout.

    Raises:
        UserError: no points, unequal lengths, or places that do not ascend.
    """
    if not units or len(units) != len(values):
        raise UserError(f"a curve of {len(units)} places and {len(values)} values.")
    if any(b <= a for a, b in itertools.pairwise(units)):
        raise UserError("the places of a curve must ascend.")
    sign = 1.0 if higher_is_better else -1.0
    lacks = [sign * (level - value) for value in values]  # above 0 where it is worse
    if lacks[0] <= 0:
        return float(units[0])
    for k in range(1, len(lacks)):
        if lacks[k] <= 0:
            share = lacks[k - 1] / (lacks[k - 1] - lacks[k])
            return units[k - 1] + share * (units[k] - units[k - 1])
    return None


def needed_at(
    arm: Sequence[Followed], other: Sequence[Followed], place: int, *, higher_is_better: bool
) -> Needed:
    """What an arm needs to be as good as another at one of its evaluations.

    Args:
        arm: the arm that is asked, a curve a seed.
        other: the other, in the order of the same seeds.
        place: number of the other's evaluation; -1 is the last.
        higher_is_better: direction of the metric.
    """
    units = tuple(curve.units[place] for curve in other)
    values = tuple(curve.values[place] for curve in other)
    needed = tuple(
        first_reach(curve.units, curve.values, level, higher_is_better=higher_is_better)
        for curve, level in zip(arm, values, strict=True)
    )
    times = tuple(None if n is None or not u else n / u for n, u in zip(needed, units, strict=True))
    return Needed(units, values, needed, times)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [x for x in values if x is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None
