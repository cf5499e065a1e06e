from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import (
    holm,
    mean_and_standard_error,
    paired_difference,
    pass_at_k,
    seed_interval,
)


@pytest.mark.parametrize("samples", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_subsets_that_hold_a_right_one(samples: int) -> None:
    for correct in range(samples + 1):
        right = [True] * correct + [False] * (samples - correct)
        for k in range(1, samples + 1):
            subsets = list(itertools.combinations(right, k))
            expected = sum(any(subset) for subset in subsets) / len(subsets)
            assert pass_at_k(samples, correct, k) == pytest.approx(expected, abs=1e-15)


def test_pass_at_k_by_hand() -> None:
    assert pass_at_k(10, 3, 1) == 0.3
    assert pass_at_k(4, 2, 2) == pytest.approx(5 / 6)
    assert pass_at_k(4, 0, 4) == 0.0
    assert pass_at_k(4, 1, 4) == 1.0


def test_pass_at_k_is_exact_where_factorials_overflow_and_small_numbers_cancel() -> None:
    assert pass_at_k(100_000, 1, 1) == 1e-5
    assert pass_at_k(10**12, 1, 3) == pytest.approx(3e-12, rel=1e-15)


@pytest.mark.parametrize(("samples", "correct", "k"), [(4, 2, 5), (4, 2, 0), (4, 5, 1), (4, -1, 1)])
def test_pass_at_k_refuses(samples: int, correct: int, k: int) -> None:
    with pytest.raises(UserError):
        pass_at_k(samples, correct, k)


def test_mean_and_standard_error() -> None:
    mean, error = mean_and_standard_error([1, 0, 0, 1, 1])
    assert mean == pytest.approx(0.6)
    assert error == pytest.approx(math.sqrt(0.6 * 0.4 / 4))
    assert mean_and_standard_error([0.25]) == (0.25, None)
    with pytest.raises(UserError, match="no values"):
        mean_and_standard_error([])
    with pytest.raises(UserError, match="number 1 is nan"):
        mean_and_standard_error([1.0, math.nan])


def test_paired_difference_of_outcomes_is_exact_mcnemar() -> None:
    a = [1] * 8 + [0] * 1 + [1] * 20 + [0] * 11
    b = [0] * 8 + [1] * 1 + [1] * 20 + [0] * 11
    result = paired_difference(a, b)
    assert result.difference == pytest.approx(7 / 40)
    assert result.p_value == pytest.approx(2 * (1 + 9) / 2**9)  # by hand: P(0 or 1 of 9), doubled
    assert result.standard_error == pytest.approx(np.std(np.subtract(a, b), ddof=1) / math.sqrt(40))
    assert paired_difference(b, a).p_value == result.p_value


def test_paired_difference_of_other_numbers_is_the_t_test() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 30), rng.normal(0, 1, 30)
    difference, error, p_value = paired_difference(a.tolist(), b.tolist())
    t = difference / error
    assert p_value == pytest.approx(2 * stats.t.sf(abs(t), 29))
    assert error == pytest.approx((a - b).std(ddof=1) / math.sqrt(30))


def test_paired_difference_without_spread() -> None:
    assert paired_difference([1, 0, 1], [1, 0, 1]) == (0.0, 0.0, 1.0)
    assert paired_difference([0.5, 1.5], [0.5, 1.5]) == (0.0, 0.0, 1.0)
    assert paired_difference([1.5, 2.5], [0.5, 1.5]) == (1.0, 0.0, 0.0)


def test_paired_difference_refuses() -> None:
    with pytest.raises(UserError, match="2 with 1"):
        paired_difference([1, 0], [1])
    with pytest.raises(UserError, match="at least 2"):
        paired_difference([1], [0])
    with pytest.raises(UserError, match="values of b"):
        paired_difference([1, 0], [1, math.inf])


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.7, 0.6]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]
    with pytest.raises(UserError):
        holm([1.2])
    with pytest.raises(UserError):
        holm([])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_as_the_step_down_procedure_does(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    level = 0.05
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    rejected = set()
    for place, index in enumerate(order):
        if p_values[index] * (len(p_values) - place) > level:
            break
        rejected.add(index)
    assert {index for index, p in enumerate(adjusted) if p <= level} == rejected


def test_seed_interval() -> None:
    low, high = seed_interval([1.0, 2.0, 3.0])
    reach = 4.302652729911275 / math.sqrt(3)  # t at 0.975 with 2 degrees of freedom
    assert (low, high) == pytest.approx((2 - reach, 2 + reach))
    narrow = seed_interval([1.0, 2.0, 3.0], confidence=0.5)
    assert narrow[1] < high
    assert seed_interval([1.0]) is None
    with pytest.raises(UserError, match="confidence"):
        seed_interval([1.0, 2.0], confidence=95.0)
