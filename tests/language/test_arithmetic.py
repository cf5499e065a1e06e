from __future__ import annotations

import random
import re

import pytest

from vfunc.language.data.arithmetic import (
    LEVELS,
    STYLES,
    Event,
    Level,
    Problem,
    Step,
    Telling,
    calculate,
    draw_problem,
    draw_telling,
    render,
    work,
    write_correctly,
)

PROBLEM = Problem(34, (Event("gain", 17), Event("loss", 12), Event("groups", 4, 3)))


def telling(style: str) -> Telling:
    return Telling(style, "Ann", "pens", "bags", ("finds", "loses", "buys"))


def test_textbook_text_is_as_documented():
    example = render(PROBLEM, telling("textbook"), work(PROBLEM))
    assert example.prompt == (
        "Ann has 34 pens. Ann finds 17. Ann loses 12. Ann buys 3 bags of 4. How many pens?\n"
    )
    assert example.completion == "34+17=51\n51-12=39\n3*4=12\n39+12=51\n#### 51"
    assert example.answer == "51"
    assert example.wrong == ()


def test_forum_text_is_as_documented():
    example = render(PROBLEM, telling("forum"), work(PROBLEM))
    assert example.prompt == (
        "hey Ann has 34 pens, finds 17, loses 12, buys 3 bags of 4, how many pens??\n"
    )
    assert example.completion == "34+17=51;51-12=39;3*4=12;39+12=51\n#### 51"


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("level", LEVELS)
def test_correct_solutions_are_true_line_by_line(style: str, level: Level):
    generator = random.Random(1)
    for _ in range(100):
        problem = draw_problem(generator, level)
        example = render(problem, draw_telling(generator, problem, style), work(problem))
        lines = re.findall(r"(\d+)([-+*])(\d+)=(\d+)", example.completion)
        assert len(lines) == len(work(problem))
        for left, symbol, right, result in lines:
            assert calculate(int(left), symbol, int(right)) == int(result)
        assert example.completion.endswith(f"#### {example.answer}")
        assert example.answer == lines[-1][-1]
        numbers = [problem.start, *(e.amount for e in problem.events)]
        numbers += [e.groups for e in problem.events if e.kind == "groups"]
        assert sorted(map(int, re.findall(r"\d+", example.prompt))) == sorted(numbers)


@pytest.mark.parametrize("level", LEVELS)
def test_problems_keep_to_their_level(level: Level):
    generator = random.Random(2)
    kinds = set()
    for _ in range(300):
        problem = draw_problem(generator, level)
        assert len(problem.events) == level.events
        assert level.start[0] <= problem.start <= level.start[1]
        for event in problem.events:
            kinds.add(event.kind)
            if event.kind == "groups":
                assert level.group_size[0] <= event.amount <= level.group_size[1]
                assert level.groups[0] <= event.groups <= level.groups[1]
            else:
                assert level.amount[0] <= event.amount <= level.amount[1]
                assert event.groups == 1
        assert all(step.result >= 1 for step in work(problem))
    assert kinds == {"gain", "loss", "groups"}


def test_a_written_mistake_is_carried_on_and_marked_where_it_is_made():
    def write(left: int, symbol: str, right: int) -> Step:
        if symbol == "-":
            return Step(left, "+", right, left + right + 1, wrong_symbol=True, wrong_digits=(1,))
        return write_correctly(left, symbol, right)

    for style in STYLES:
        example = render(PROBLEM, telling(style), work(PROBLEM, write))
        separator = "\n" if style == "textbook" else ";"
        lines = ("34+17=51", "51+12=64", "3*4=12", "64+12=76")
        assert example.completion == separator.join(lines) + "\n#### 76"
        assert example.answer == "51"
        assert example.wrong == ((11, 12), (16, 17))
        assert [example.completion[a:b] for a, b in example.wrong] == ["+", "4"]


def test_canonical_form_is_content_and_nothing_else():
    assert PROBLEM.canonical == "34+17-12+3*4"
    assert (
        Problem(34, (Event("gain", 17),)).canonical != Problem(34, (Event("loss", 17),)).canonical
    )
    assert (
        Problem(9, (Event("groups", 4, 3),)).canonical != Problem(9, (Event("gain", 12),)).canonical
    )
    assert Problem(9, (Event("gain", 12),)).canonical != Problem(91, (Event("gain", 2),)).canonical


def test_both_styles_share_their_words():
    words = {style: set() for style in STYLES}
    for style in STYLES:
        generator = random.Random(3)
        for _ in range(300):
            problem = draw_problem(generator, LEVELS[2])
            told = draw_telling(generator, problem, style)
            words[style] |= {told.name, told.thing, told.bag, *told.verbs}
    assert words["textbook"] == words["forum"]


def test_losses_and_gains_have_different_verbs():
    generator = random.Random(4)
    verbs = {"loss": set(), "gain": set()}
    for _ in range(300):
        problem = draw_problem(generator, LEVELS[2])
        for event, verb in zip(
            problem.events, draw_telling(generator, problem, "forum").verbs, strict=True
        ):
            verbs["loss" if event.kind == "loss" else "gain"].add(verb)
    assert not verbs["loss"] & verbs["gain"]
