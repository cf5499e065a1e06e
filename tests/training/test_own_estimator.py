"""An estimator from the user's own folder: found, asked for what it wants, held to its contract."""

from __future__ import annotations

import sys

import pytest

OWN = """
from dataclasses import dataclass, replace

import vfunc


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


class Number:
    def __call__(self, problem, theta, phi):
        return 3.0
"""


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A module in the working directory, which is not on Python's path."""
    (tmp_path / "own_estimators.py").write_text(OWN)
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


def test_train_mode_wants_a_learner_with_dropout(command, capsys):
    assert command(estimate_mode="train") == 2
    assert "the learner has no dropout" in capsys.readouterr().err


def test_an_unsolved_system_says_where_and_how_to_go_on(command, capsys):
    code = command("--name", "x", arms="vpretraining", estimator="implicit", solver_tolerance=1e-12)
    said = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and "--resume x" in said and "arm vpretraining, step 0" in said
