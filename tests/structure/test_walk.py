"""A step is a short walk: how many files it enters, and how often it goes from one to another."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from walk import first_step

# what was reached; a reader's way may get shorter, and should not get longer unnoticed. The last
# file that came in says what a forward leaves out, at each of a step's forwards
MOST_FILES, MOST_MOVES = 31, 135


DESIGN = Path(__file__).parents[2] / "docs" / "design.md"


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
    assert set(visits) <= {"language_problem", "construct", "tangent"}


def test_the_stations_of_the_document_are_on_the_way(walk):
    section = DESIGN.read_text(encoding="utf-8").split("## One step, as data flows")[1]
    section = section.split("\n## ")[0]
    named = set(re.findall(r"`(\w[\w/]*\.py)`", section)) - {"tests/structure/walk.py"}
    assert all((DESIGN.parents[1] / "vfunc" / file).is_file() for file in named)
    of_language = {file for file in named if file.startswith("language/")}
    assert of_language <= {
        *walk.entered,
        "language/rewards.py",
        "language/soft_targets/hand_made.py",
    }
