"""Pass@k over seeds or problems, and paired differences to the baseline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import paired_difference, paired_t, pass_at_k, seed_interval
from vfunc.report.seed_statistics import Interval
from vfunc.report.table import BASELINE


@dataclass(frozen=True)
class Sampled:
    """How many of the sampled solutions of each problem are right.

    Attributes:
        samples: solutions of each problem.
        correct: how many of them are right, one a problem.
    """

    samples: int
    correct: tuple[int, ...]


@dataclass(frozen=True)
class PassAt:
    """An arm's Pass@k at one k.

    Attributes:
        k: k.
        values: Pass@k, one a seed: each the mean over problems.
        mean: mean over seeds.
        interval: Student's 95 % interval: over seeds, or over problems where there is one seed.
        difference: mean difference to the baseline, over the same; None of the baseline itself,
            and without one.
        difference_interval: its interval.
        p_value: two-sided, paired, not adjusted: McNemar's of one run's problems where all are
            solved or not, else the paired t test's; None where that is not defined, see `paired_t`.
    """

    k: int
    values: tuple[float, ...]
    mean: float
    interval: Interval | None
    difference: float | None = None
    difference_interval: Interval | None = None
    p_value: float | None = None


def pass_curves(
    solved: Mapping[str, Sequence[Sampled]], most: int
) -> dict[str, tuple[PassAt, ...]]:
    """Pass@k of every arm for k = 1 to `most`, and its difference to the baseline.

    Args:
        solved: by arm how many samples of each problem are right, one a seed.
        most: the largest k.
    """
    outcomes = {
        arm: [[_by_problem(one, k) for one in of] for k in range(1, most + 1)]
        for arm, of in solved.items()
    }
    base = outcomes.get(BASELINE)
    return {
        arm: tuple(
            _pass_at(k + 1, of, None if base is None or arm == BASELINE else base[k])
            for k, of in enumerate(by_k)
        )
        for arm, by_k in outcomes.items()
    }


def _by_problem(one: Sampled, k: int) -> list[float]:
    return [pass_at_k(one.samples, correct, k) for correct in one.correct]


def _pass_at(
    k: int, of: Sequence[Sequence[float]], base: Sequence[Sequence[float]] | None
) -> PassAt:
    """Statistics over seeds, or over problems where there is one seed."""
    values = tuple(statistics.fmean(problems) for problems in of)
    over = values if len(of) > 1 else tuple(of[0])
    found = PassAt(k, values, statistics.fmean(values), seed_interval(over))
    if base is None:
        return found
    if len(of) > 1:
        a, b = list(values), [statistics.fmean(problems) for problems in base]
    else:
        if len(of[0]) != len(base[0]):
            raise UserError(
                f"the arms were asked {len(of[0])} and {len(base[0])} problems, which are no "
                "pairs: sample them again with another --output"
            )
        a, b = list(of[0]), list(base[0])
    differences = [x - y for x, y in zip(a, b, strict=True)]
    outcomes = len(of) == 1 and len(a) > 1 and {*a, *b} <= {0.0, 1.0}
    p_value = paired_difference(a, b).p_value if outcomes else paired_t(a, b)
    return PassAt(
        k,
        values,
        found.mean,
        found.interval,
        statistics.fmean(differences),
        seed_interval(differences),
        p_value,
    )
