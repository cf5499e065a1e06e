"""A step is a short walk: how many files it enters, and how often it goes from one to another."""

from __future__ import annotations

import pytest
from walk import first_step

# what was reached; a reader's way may get shorter, and should not get longer unnoticed
MOST_FILES, MOST_MOVES = 32, 100


@pytest.fixture(scope="module")
def walk():
    return first_step()


def test_a_first_step_enters_few_files_and_goes_between_them_seldom(walk):
    assert len(walk.entered) <= MOST_FILES
    assert len(walk.moves) <= MOST_MOVES


def test_the_value_problem_is_put_together_in_one_visit(walk):
    visits = [function for _, file, function in walk.moves if file == "language/value_problem.py"]
    assert visits.count("language_problem") == 1
    # the problem's own functions, which an estimate calls, are the rest
    assert set(visits) <= {"language_problem", "construct", "coefficients"}
