"""An estimator from the user's own folder: found, asked for what it wants, held to its contract."""

from __future__ import annotations

import re
import sys
import tomllib

import pytest

import vfunc
from vfunc.report.events import read_events
from vfunc.studies.repetition import plan
from vfunc.training.run_command_line import parse

OWN = """
from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import vfunc
from vfunc.config.declared import option


@dataclass(frozen=True)
class LooksAhead:
    lookahead_steps: int = 3

    def __call__(self, problem, theta, phi):
        assert len(problem.batches) == 3
        return vfunc.Unrolled(self.lookahead_steps)(problem, theta, phi)


class Forgetful:
    def __call__(self, problem, theta, phi):
        estimate = vfunc.FirstOrder()(problem, theta, phi)
        name = next(iter(estimate.grad))
        return replace(estimate, grad={k: g for k, g in estimate.grad.items() if k != name})


@dataclass(frozen=True)
class Scaled:
    '''First order, scaled.

    Attributes:
        strength: How much of it counts.
        kind: What is raised.
        notes: Not for the command line.
    '''

    strength: float = option(default=0.5, above=0, most=1)
    kind: Literal["dot", "cosine"] = "dot"
    label: str | None = None
    steps: tuple[int, ...] = (1, 2)
    notes: dict[str, int] = field(default_factory=dict)

    def __call__(self, problem, theta, phi):
        estimate = vfunc.FirstOrder(self.kind)(problem, theta, phi)
        return replace(estimate, value=self.strength * estimate.value)


class Ordinary:
    def __init__(self, strength: float = 0.5, engine="auto"):
        self.strength = strength

    def __call__(self, problem, theta, phi):
        return vfunc.FirstOrder()(problem, theta, phi)


def made_by_a_function(strength: float = 0.5):
    return vfunc.FirstOrder("cosine" if strength > 0.5 else "dot")


@dataclass(frozen=True)
class Clashing:
    seed: int = 0

    def __call__(self, problem, theta, phi):
        return vfunc.FirstOrder()(problem, theta, phi)


@dataclass(frozen=True)
class Strict:
    strength: float

    def __call__(self, problem, theta, phi):
        return vfunc.FirstOrder()(problem, theta, phi)


@dataclass(frozen=True)
class Raises:
    n: int = 7
    how: str = "value"

    def __post_init__(self):
        assert self.how != "assert"
        if self.how == "key":
            {}["n"]
        raise ValueError(f"n must be even, not {self.n}")

    __call__ = Clashing.__call__


class RaisesOrdinary(Raises):
    def __init__(self, n: int = 7):
        raise TypeError(f"n must be even, not {n}")


def raises_in_a_function(n: int = 7):
    raise ValueError(f"n must be even, not {n}")


@dataclass(frozen=True)
class Whole:
    strength: int = 1

    __call__ = Clashing.__call__


class Number:
    def __call__(self, problem, theta, phi):
        return 3.0
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A module in the working directory, which is not on Python's path."""
    (tmp_path / "own_estimators.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(tmp_path))])
    monkeypatch.setattr("vfunc.training.summary._plots", lambda *_: [])
    yield
    sys.modules.pop("own_estimators", None)


def test_it_is_found_where_the_user_stands_and_looks_as_far_ahead_as_it_wants(command):
    before = list(sys.path)
    assert command(arms="vpretraining", estimator="own_estimators:LooksAhead", budget="2steps") == 0
    assert sys.path == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Forgetful", "the estimate's grad does not match: missing"),
        ("Number", "the estimator returned a float; it has to return a ValueEstimate"),
        ("Missing", "own_estimators has no 'Missing'"),
    ],
)
def test_one_that_breaks_its_contract_is_one_line(command, capsys, name, said):
    code = command(arms="vpretraining", estimator=f"own_estimators:{name}", budget="2steps")
    lines = [s for s in capsys.readouterr().err.splitlines() if "tokens/s" not in s]
    assert code == 2 and len(lines) == 1 and said in lines[0]


def options_of(run):
    return tomllib.loads((run / "config.toml").read_text())


def test_its_fields_are_options_that_a_run_keeps(command, tmp_path, capsys):
    own = {"arms": "vpretraining", "budget": "2steps", "estimator": "own_estimators:Scaled"}
    assert command(name="half", **own) == 0
    assert command(name="fifth", strength=0.2, kind="dot", **own) == 0
    values = [
        next(
            e["value"]
            for e in read_events(tmp_path / "runs" / run / "events.jsonl")
            if "value" in e
        )
        for run in ("half", "fifth")
    ]
    assert values[1] == pytest.approx(0.4 * values[0])
    written = options_of(tmp_path / "runs" / "fifth")
    assert (written["strength"], written["kind"]) == (0.2, "dot")
    assert "strength" not in options_of(tmp_path / "runs" / "half")
    again = parse(["--config", "runs/fifth/config.toml"])
    assert again.estimator.estimator.strength == 0.2
    capsys.readouterr()
    assert command("--resume", "fifth", small_data=False) == 0
    assert "fifth" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Scaled", "Ordinary", "made_by_a_function"])
def test_options_reach_whatever_makes_it(name, tmp_path):
    (tmp_path / "mine.toml").write_text(f'estimator = "own_estimators:{name}"\nstrength = 0.75\n')
    for words in (
        ["--config", "mine.toml"],
        ["--estimator", f"own_estimators:{name}", "--strength", "0.75"],
    ):
        config = parse(words)
        made = config.estimator.estimator
        assert config.options["strength"] == 0.75
        assert getattr(made, "strength", 0.75) == 0.75
        assert name != "made_by_a_function" or made == vfunc.FirstOrder("cosine")


def test_its_options_are_read_by_their_types():
    line = "--estimator own_estimators:Scaled --kind cosine --label a --steps 3 4 5"
    made = parse(line.split()).estimator.estimator
    assert (made.kind, made.label, made.steps) == ("cosine", "a", (3, 4, 5))


def test_help_shows_its_options(capsys):
    with pytest.raises(SystemExit):
        parse(["--estimator", "own_estimators:Scaled", "--help"], prog="run.py")
    shown = " ".join(re.sub(r"[│╭╮╰╯─]", "", capsys.readouterr().out).split())
    assert "With --estimator own_estimators:Scaled." in shown
    assert "--strength FLOAT How much of it counts. (default: 0.5)" in shown
    assert "--kind {dot,cosine} What is raised. (default: dot)" in shown
    assert "--notes" not in shown


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("--estimator own_estimators:Scaled --strength 2", "--strength must be above 0 and at most 1"),
        ("--config mine.toml", r"mine\.toml: strength must be a number, not 'much'"),
        ("--estimator own_estimators:Clashing", "field 'seed', which is an option of the run already; "
         "rename the field"),
        ("--estimator own_estimators:Strict", "'own_estimators:Strict' needs --strength"),
        ("--estimator own_estimators:Scaled --damping 1", "--damping does nothing here: .* it takes --strength, "
         "--kind, --label, --steps"),
        ("--estimator own_estimators:Missing", "own_estimators has no 'Missing'"),
        ("--estimator own_nowhere:Scaled --strength 1", "cannot be imported"),
        ("--estimator own_estimators:Raises --n 7", "'own_estimators:Raises': n must be even, not 7"),
        ("--estimator own_estimators:Raises --how assert", "'own_estimators:Raises': AssertionError"),
        ("--estimator own_estimators:Raises --how key", "'own_estimators:Raises': KeyError: 'n'"),
        ("--estimator own_estimators:RaisesOrdinary", "'own_estimators:RaisesOrdinary': n must be even"),
        ("--estimator own_estimators:raises_in_a_function", "raises_in_a_function': n must be even"),
    ],
)  # fmt: skip
def test_a_mistake_about_its_options_is_one_line(command, capsys, tmp_path, line, said):
    (tmp_path / "mine.toml").write_text('estimator = "own_estimators:Scaled"\nstrength = "much"\n')
    assert command(*line.split(), small_data=False) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(said, lines[0]), lines


def test_its_options_in_a_file_give_way_to_another_estimator(tmp_path):
    (tmp_path / "kept.toml").write_text('estimator = "own_estimators:Scaled"\nstrength = 0.2\n')
    config = parse(["--config", str(tmp_path / "kept.toml"), "--estimator", "first_order"])
    assert config.estimator == parse([]).estimator


def test_it_can_be_varied_beside_others(tmp_path):
    vary = ["estimator=first_order,own_estimators:Scaled"]
    _, planned = plan([0], vary, ["--name", "c"])
    assert [one.config.options["estimator"] for one in planned] == vary[0].split("=")[1].split(",")
    _, planned = plan([0], ["strength=0.2,0.4"], ["--estimator", "own_estimators:Scaled"])
    assert [one.config.estimator.estimator.strength for one in planned] == [0.2, 0.4]


FOREIGN = (
    "--strength does nothing here: the estimator 'first_order' does not use it; it takes --value, "
    "--engine"
)


@pytest.mark.parametrize(
    ("vary", "rest", "said"),
    [
        (["estimator=own_estimators:Scaled,first_order"], "--strength 0.2",
         f"estimator=first_order: {FOREIGN}"),
        (["estimator=first_order,own_estimators:Scaled"], "--strength=0.2",
         f"estimator=first_order: {FOREIGN}"),
        (["estimator=own_estimators:Scaled,first_order", "strength=0.2,0.4"], "",
         f"estimator=first_order, strength=0.2: {FOREIGN}"),
        (["config=own.toml,plain.toml"], "--strength 0.2", f"config=plain.toml: {FOREIGN}"),
        (["config=own.toml"], "--config plain.toml", "--config is given and varied as well"),
        (["estimator=own_estimators:Scaled,own_estimators:Whole"], "--strength 1",
         "the estimators 'own_estimators:Scaled' and 'own_estimators:Whole' both have an option "
         "--strength, of different types"),
        (["config=own.toml,whole.toml"], "--strength 1",
         "'own_estimators:Scaled' and 'own_estimators:Whole' both have an option --strength"),
    ],
)  # fmt: skip
def test_an_option_of_one_setting_s_estimator_is_refused_in_another(tmp_path, vary, rest, said):
    for name, chosen in OWN_FILES.items():
        (tmp_path / f"{name}.toml").write_text(f'estimator = "{chosen}"\n')
    with pytest.raises(vfunc.UserError) as refused:
        plan([0], vary, rest.split())
    assert str(refused.value).startswith(said) or said in str(refused.value)


OWN_FILES = {
    "own": "own_estimators:Scaled",
    "plain": "first_order",
    "whole": "own_estimators:Whole",
}


def test_a_varied_file_may_name_the_estimator_and_the_modality(tmp_path):
    (tmp_path / "own.toml").write_text('estimator = "own_estimators:Scaled"\n')
    (tmp_path / "seen.toml").write_text('modality = "vision"\n')
    _, planned = plan([0], ["config=own.toml"], ["--strength", "0.2"])
    assert planned[0].config.estimator.estimator.strength == 0.2
    _, planned = plan([0], ["config=seen.toml", "image_size=32,64"], ["--name", "x"])
    assert [one.config.options["image_size"] for one in planned] == [32, 64]
    two = ["estimator=own_estimators:Scaled,own_estimators:Whole"]
    _, planned = plan([0], two, [])  # of different types, and neither is given
    assert [one.config.estimator.estimator.strength for one in planned] == [0.5, 1]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def broken(:\n", "SyntaxError: .*own_broken.py, line 1"),
        ("1 / 0\n", "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3"),
    ],
)
def test_a_module_that_does_not_import_is_one_line(command, capsys, tmp_path, text, said):
    (tmp_path / "own_broken.py").write_text(text)
    assert command("--estimator", "own_broken:Scaled", small_data=False) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and re.search(said, lines[0]), lines


def test_train_mode_wants_a_learner_with_dropout(command, capsys):
    assert command(estimate_mode="train") == 2
    assert "the learner has no dropout" in capsys.readouterr().err


def test_an_unsolved_system_says_where_and_how_to_go_on(command, capsys):
    code = command("--name", "x", arms="vpretraining", estimator="implicit", solver_tolerance=1e-12)
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and "--resume x" in said and "arm vpretraining, step 0" in said
