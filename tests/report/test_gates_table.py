from __future__ import annotations

import io
import re

from rich.console import Console

from vfunc.report.gates_table import gate_means, gates_table
from vfunc.report.table import markdown


def step(arm: str, number: int, **told) -> dict:
    return {"kind": "step", "arm": arm, "step": number, **told}


EVENTS = [
    *(step("baseline", n) for n in (1, 2, 3, 4)),
    step("vpretraining", 1, **{"gate_on_wrong": 9, "gate_on_right": 9, "gate_of/a": 9}),
    step("vpretraining", 2, **{"gate_on_wrong": 9, "gate_on_right": 9, "gate_of/a": 9}),
    step("vpretraining", 3, **{"gate_on_wrong": 0.5, "gate_on_right": 0.25, "gate_of/a": 0.5}),
    step("vpretraining", 4, **{"gate_on_right": 0.75, "gate_of/b": 0.125}),
    {"kind": "evaluation", "arm": "vpretraining", "step": 4, "gate_of/a": 7},
    step("random_feedback", 1, **{"gate_of/a": 0.25}),
]


def test_means_are_of_the_second_half_and_of_what_can_be_told_apart():
    means = gate_means(EVENTS)
    assert means == {
        "vpretraining": {
            "gate_on_wrong": 0.5,
            "gate_on_right": 0.5,
            "gate_of/a": 0.5,
            "gate_of/b": 0.125,
        }
    }


def test_steps_count_by_their_tokens():
    """A step of a single mistaken token beside one of many; without counts all count alike."""
    few, many = {"gate_on_wrong": 1.0}, {"gate_on_wrong": 0.5}
    late = [step("v", 1), step("v", 2, **few, counts={"gate_on_wrong": 1})]
    counted = step("v", 3, **many, counts={"gate_on_wrong": 3, "gate": 40})
    assert gate_means([*late, counted]) == {"v": {"gate_on_wrong": 0.625}}
    assert gate_means([*late, step("v", 3, **many)]) == {"v": {"gate_on_wrong": 0.75}}


def test_a_source_that_had_its_text_in_the_first_half_has_a_row_that_says_so():
    both = {"gate_of/a": 0.25, "gate_of/b": 0.5, "gate_on_wrong": 1.0}
    means = gate_means(
        [step("v", 1, **both), *(step("v", n, **{"gate_of/a": 0.5}) for n in (2, 3))]
    )
    assert means == {"v": {"gate_of/a": 0.5, "gate_of/b": None, "gate_on_wrong": None}}
    table = gates_table(means)
    assert table is not None
    said = markdown(table)
    assert "| known to be mistaken | – |\n| of a | 0.500 |\n| of b | – |\n" in said
    assert "– where the arm had no such tokens there" in said


def test_an_arm_without_text_of_two_sources_tells_of_none():
    assert gate_means([step("v", 1, **{"gate_of/a": 0.25})]) == {}
    assert gate_means([{"kind": "step", "arm": "v"}]) == {}  # a damaged line
    assert gate_means([]) == {} and gates_table({}) is None


def test_the_table_has_a_row_a_kind_and_a_column_an_arm():
    means = {
        "v": {"gate_of/a|b": 0.5, "gate_of/c": 0.1, "gate_on_wrong": 0.25, "gate_on_right": 0.125},
        "r": {"gate_of/c": 0.25, "gate_of/d": 0.75},
    }
    table = gates_table(means)
    assert table is not None
    lines = markdown(table).splitlines()
    assert lines[:1] == ["| tokens | v | r |"]
    assert lines[2:7] == [
        "| known to be mistaken | 0.250 | – |",
        "| others | 0.125 | – |",
        "| of a\\|b | 0.500 | – |",
        "| of c | 0.100 | 0.250 |",
        "| of d | – | 0.750 |",
    ]


def test_a_long_name_of_a_source_leaves_the_figures_whole():
    names = ("vpretraining", "random_feedback", "known_wrong")
    table = gates_table({arm: {f"gate_of/{'long-name-' * 12}": 0.125} for arm in names})
    out = io.StringIO()
    Console(width=80, file=out).print(table)
    said = out.getvalue()
    assert said.count("0.125") == 3 and all(arm in said for arm in names)
    assert re.sub(r"\s|0\.125", "", said).count("long-name-") == 12
