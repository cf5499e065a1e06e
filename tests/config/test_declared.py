"""The mechanism of options alone: reading declarations, defaults that depend, choices, building."""

from __future__ import annotations

import ast
import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

import vfunc.config
from vfunc.config.build import arguments, built
from vfunc.config.declared import (
    HIDDEN,
    By,
    Cases,
    Computed,
    Condition,
    Need,
    default_words,
    option,
    same,
)
from vfunc.config.fields import readable
from vfunc.config.known import RESERVED, known_options
from vfunc.config.partial import Partial
from vfunc.config.resolved import ResolvedOptions
from vfunc.errors import UserError
from vfunc.studies.compare_command import CompareOptions
from vfunc.training.build.configuration import groups_of
from vfunc.training.run_command_line import parse

LARGE = Condition("for large ones", lambda options: options["size"] > 5)


@dataclass(frozen=True)
class Iterative:
    """Goes on until it is there.

    Attributes:
        tolerance: Where it stops.
        steps: Most steps.
    """

    tolerance: float = 0.1
    steps: int = option("Steps.", name="solver_steps", default=9, least=1)


@dataclass(frozen=True)
class Direct:
    """At once."""

    rank: int = 4
    steps: int = same(Iterative, "steps")


@dataclass(frozen=True)
class Part:
    """A part that a run completes."""

    unknown: int = field(metadata=HIDDEN)
    width: int = option("Width.", name="part_width", default=Cases(((LARGE, 2),), 1, plain=7))


@dataclass(frozen=True, kw_only=True)
class Whole:
    """Everything."""

    size: int = option("Size.", default=1)
    part: Partial[Part] = option(needs=(Need(LARGE.holds, "it is for large ones"),))
    solver: Iterative | Direct = option(
        "How.", default=Iterative(), variants={"iterative": Iterative, "direct": Direct}
    )
    double: int = option("Twice.", default=Computed("twice", lambda o: 2 * o["part_width"], 0))
    colour: Literal["red", "blue"] = "red"
    per: float = option(
        "Per.", default=By("colour", {"red": 1.5, "blue": Cases(((LARGE, 2.0),), 3.0)})
    )


CATALOGUE = known_options({"whole": Whole})


def company(**given):
    return ResolvedOptions(CATALOGUE, given)


def test_options_are_the_fields_of_nested_dataclasses_by_their_names():
    assert list(CATALOGUE) == [
        "size", "part_width", "solver", "tolerance", "solver_steps", "rank", "double", "colour",
        "per",
    ]  # fmt: skip
    assert CATALOGUE["tolerance"].help == "Where it stops."
    assert CATALOGUE["solver"].kind == Literal["iterative", "direct"]
    assert CATALOGUE["solver"].default == "iterative"


def test_a_dataclass_made_in_python_has_its_own_default():
    assert Part(0).width == 7 and Whole(part=Partial(Part), per=0.0).double == 0


def test_defaults_follow_one_another_in_any_order():
    assert company()["double"] == 2 and company(size=6)["double"] == 4
    assert company(part_width=5)["double"] == 10
    assert (company()["per"], company(colour="blue")["per"]) == (1.5, 3.0)
    assert company(colour="blue", size=6)["per"] == 2.0


def test_the_words_of_a_default_are_made_from_its_values():
    assert default_words(CATALOGUE["part_width"].default, {}) == "2 for large ones, else 1"
    assert default_words(CATALOGUE["per"].default, {"colour": "red"}) == "1.5"
    shown = default_words(CATALOGUE["per"].default, {})
    assert shown == "red: 1.5; blue: 2 for large ones, else 3"
    assert default_words(None, {}) == ""


def test_defaults_that_wait_for_each_other_are_named():
    @dataclass(frozen=True)
    class Ring:
        one: int = option("One.", default=Computed("two", lambda o: o["two"], 0))
        two: int = option("Two.", default=Computed("one", lambda o: o["one"], 0))

    with pytest.raises(RuntimeError, match="one -> two -> one"):
        _ = ResolvedOptions(known_options({"ring": Ring}), {})["one"]


def test_an_option_does_something_where_its_choice_and_its_place_do():
    assert company(rank=1).useless() == {"rank": "it is for --solver direct"}
    assert company(solver="direct", rank=1).useless() == {}
    assert company(solver="direct", solver_steps=1).useless() == {}
    assert company(part_width=1).useless() == {"part_width": "it is for large ones"}
    assert company(part_width=1, size=9).useless() == {}


def test_components_are_built_from_options():
    made = built(Whole, company(solver="direct", rank=2, size=9))
    assert made.solver == Direct(2, 9) and made.part == Partial(Part, (("width", 2),))
    assert made.part(unknown=3) == Part(3, 2) and made.part["width"] == 2
    # of given options alone: the rest is left to the class
    assert arguments(Whole, {"rank": 2}) == {"part": Partial(Part)}
    assert arguments(Whole, {"solver": "direct", "rank": 2})["solver"] == Direct(2)


def test_what_has_no_default_has_to_be_given():
    @dataclass(frozen=True)
    class Strict:
        share: float

    assert built(Strict, {"share": 0.5}) == Strict(0.5)
    with pytest.raises(UserError, match="'strict' needs --share"):
        built(Strict, {}, "'strict'")


def test_help_is_the_docstrings_line_in_whatever_style_of_argument():
    def made(first: int = 1, second: float = 0.5, third: str = "x"):
        """It is made.

        Args:
            first: One line.
            second (float): Two
                lines.

        Returns:
            third: no option.
        """

    found = known_options({"made": made})
    assert [k.help for k in found.values()] == ["One line.", "Two lines.", ""]
    assert [k.default for k in found.values()] == [1, 0.5, "x"]


@pytest.mark.parametrize(
    ("hint", "kind"),
    [
        (int, int),
        (float | None, float),
        (str | Whole, str),
        (tuple[int, ...] | None, tuple[int, ...]),
        (tuple[float, float], tuple[float, float]),
        (Literal["a", "b"] | None, Literal["a", "b"]),
        (dict[str, int], None),
        (Whole, None),
        (None, None),
    ],
)
def test_of_a_type_what_text_can_give_is_read(hint, kind):
    assert readable(hint) == kind


def test_the_mechanism_knows_nothing_of_what_it_configures():
    for path in Path(vfunc.config.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vfunc"):
                below = ("vfunc.config", "vfunc.errors", "vfunc.extras", "vfunc.printable")
                assert node.module.startswith(below), path


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"no_certify": bool}, "field 'no_certify', and --no-certify turns --certify off already"),
        ({"no_certify": int}, "and --no-certify turns --certify off already; rename the field"),
        ({"flip": bool, "no_flip": bool}, "and --no-flip turns --flip off already; rename"),
        ({"help": str}, "which is an option of every command already; rename the field"),
        *(
            ({name: int}, f"{name!r}, which is an option of compare already; rename the field")
            for name in ("seeds", "primary", "vary", "output")
        ),
    ],
)
def test_a_variant_s_field_whose_flag_is_taken_is_refused(fields, said):
    made = dataclasses.make_dataclass("Own", [(n, k, k()) for n, k in fields.items()], frozen=True)
    with pytest.raises(UserError, match=said):
        known_options(groups_of("language"), {"own:Own": made})


def test_the_options_that_compare_keeps_for_itself_are_reserved():
    own = {field.name.rstrip("_") for field in dataclasses.fields(CompareOptions)}
    assert own < RESERVED.keys()


def test_a_field_that_only_looks_like_a_switch_is_an_option():
    made = dataclasses.make_dataclass("Own", [("no_lr", float, 1.0), ("no_flip", bool, False)])
    assert {"no_lr", "no_flip"} < known_options(groups_of("language"), {"own:Own": made}).keys()


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--seed 99999999999999999999999", "--seed must be at "),
        ("--seed 4294967296", "--seed must be at least 0 and at most 4294967295, not 4294967296"),
        ("--config=", "--config '' names no file"),
        ("--threads 9999999999999999", "--threads must be at least 0 and at most 4096"),
        (
            "--batch-size 99999999999999999999999",
            "--batch-size must be at most 9223372036854775807",
        ),
    ],
)
def test_a_value_that_nothing_could_hold_is_refused(line, said):
    with pytest.raises(UserError, match=said):
        parse(line.split())
