from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfunc.language.data.arithmetic import LEVELS, Event, Problem, calculate, draw_problem, work
from vfunc.language.data.mistakes import (
    MISTAKES,
    add_without_carries,
    invites_mistakes,
    mistaken_work,
)


@pytest.mark.parametrize(
    ("left", "right", "written"),
    [(47, 38, 75), (47, 68, 105), (47, 53, 90), (7, 8, 15), (12, 5, 17), (99, 1, 90), (8, 47, 45)],
)
def test_forgotten_carries_by_hand(left: int, right: int, written: int):
    assert add_without_carries(left, right) == written


@settings(max_examples=100)
@given(st.integers(0, 999), st.integers(0, 999))
def test_forgetting_carries_never_adds_too_much_and_commutes(left: int, right: int):
    written = add_without_carries(left, right)
    assert written <= left + right
    assert written == add_without_carries(right, left)
    assert written % 10 == (left + right) % 10 or max(left, right) < 10


def test_a_subtraction_is_written_as_an_addition_and_carries_are_then_kept():
    problem = Problem(34, (Event("gain", 17), Event("loss", 12), Event("groups", 4, 3)))
    steps = mistaken_work(problem, "systematic", random.Random(0))
    assert [(s.left, s.symbol, s.right, s.result) for s in steps] == [
        (34, "+", 17, 51),
        (51, "+", 12, 63),
        (3, "*", 4, 12),
        (63, "+", 12, 75),
    ]
    assert [s.wrong_symbol for s in steps] == [False, True, False, False]
    assert all(s.wrong_digits == () for s in steps)


def test_without_a_subtraction_carries_are_forgotten_and_the_digits_marked():
    problem = Problem(47, (Event("gain", 38), Event("gain", 12), Event("groups", 7, 3)))
    steps = mistaken_work(problem, "systematic", random.Random(0))
    assert [(s.left, s.symbol, s.right, s.result) for s in steps] == [
        (47, "+", 38, 75),
        (75, "+", 12, 87),
        (3, "*", 7, 21),
        (87, "+", 21, 108),
    ]
    assert [s.wrong_digits for s in steps] == [(0,), (), (), ()]
    assert not any(s.wrong_symbol for s in steps)


def test_where_a_leading_digit_is_lost_units_are_compared_with_units():
    # 95 + 8 = 103 is written as 93: the 9 stands where a 0 should, and the 3 is right.
    step = mistaken_work(Problem(95, (Event("gain", 8),)), "systematic", random.Random(0))[0]
    assert (step.result, step.wrong_digits) == (93, (0,))


@pytest.mark.parametrize("mistakes", MISTAKES)
def test_a_mistaken_solution_is_wrong_marked_and_otherwise_follows(mistakes: str):
    generator = random.Random(5)
    for _ in range(400):
        problem = draw_problem(generator, LEVELS[generator.randrange(3)])
        if not invites_mistakes(problem):
            continue
        true, steps = work(problem), mistaken_work(problem, mistakes, generator)
        assert steps[-1].result != true[-1].result
        assert all(step.result >= 0 for step in steps)
        total = problem.start
        for step, correct in zip(steps, true, strict=True):
            # The marks are exactly where the line departs from what its place asks for.
            assert step.wrong_symbol == (step.symbol != correct.symbol)
            follows = calculate(step.left, step.symbol, step.right) == step.result
            assert follows == (step.wrong_digits == ())
            if step.symbol != "*":
                assert step.left == total
                total = step.result
        assert any(step.wrong_symbol or step.wrong_digits for step in steps)


def test_a_random_slip_changes_one_digit_and_keeps_the_length():
    generator = random.Random(6)
    places, slipped_lines = set(), set()
    for _ in range(400):
        problem = draw_problem(generator, LEVELS[2])
        steps = mistaken_work(problem, "random_slips", generator)
        (line,) = [i for i, step in enumerate(steps) if step.wrong_digits]
        step = steps[line]
        written, right = str(step.result), str(calculate(step.left, step.symbol, step.right))
        assert len(written) == len(right)
        differing = [i for i, (a, b) in enumerate(zip(written, right, strict=True)) if a != b]
        assert tuple(differing) == step.wrong_digits and len(differing) == 1
        places.add(differing[0])
        slipped_lines.add(line)
    assert {0, 1} <= places and {0, 1, 2} <= slipped_lines


def test_what_invites_mistakes():
    assert invites_mistakes(Problem(20, (Event("loss", 3),)))
    assert invites_mistakes(Problem(18, (Event("gain", 3),)))
    assert invites_mistakes(Problem(18, (Event("groups", 4, 2),)))
    assert not invites_mistakes(Problem(11, (Event("gain", 12),)))
    assert not invites_mistakes(Problem(11, (Event("groups", 7, 4),)))
