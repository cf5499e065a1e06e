"""What g_down sees: agreement of its halves, the stream in it, and known mistakes."""

from __future__ import annotations

import math

import measures
import pytest
import torch
from rich.console import Console

import vfunc
from vfunc.errors import UserError
from vfunc.estimators.parts import tangents_of_parts
from vfunc.evaluation.signal import KnownMistakes, Scores, cosine_of, directions, scores_along
from vfunc.report.table import markdown, signal_table
from vfunc.simulate import SGD, UpdateRule


def pairs(wrong, right):
    """The same by counting pairs."""
    won = sum((w > r) + 0.5 * (w == r) for w in wrong for r in right)
    return won / (len(wrong) * len(right))


@pytest.mark.parametrize("seed", range(5))
def test_the_area_is_a_count_of_pairs(seed):
    drawn = torch.randint(0, 6, (40,), generator=measures.generator(seed)).float().tolist()
    wrong, right = tuple(drawn[:11]), tuple(drawn[11:])
    assert Scores(wrong, right).area == pytest.approx(pairs(wrong, right))
    assert (Scores(wrong[:4], right[:9]) + Scores(wrong[4:], right[9:])).area == pytest.approx(
        pairs(wrong, right)
    )
    assert Scores(right, wrong).area == pytest.approx(1 - pairs(wrong, right))


def test_an_area_of_one_kind_is_not_defined():
    assert Scores((), (1.0,)).area is None and Scores((1.0,), ()).area is None
    assert Scores((2.0,), (1.0,)).area == 1.0 and Scores((1.0,), (1.0,)).area == 0.5


def test_the_cosine_of_a_zero_is_not_defined():
    one = {"x": torch.ones(2)}
    assert cosine_of(one, {"x": torch.zeros(2)}) is None
    assert cosine_of(one, {"x": torch.tensor([1.0, 0.0])}) == pytest.approx(math.sqrt(0.5))


def made():
    """Tokens whose gradients are a common part, and a part of their own that is wrong or right."""
    common, own = torch.eye(4)[0], torch.eye(4)[1]
    wrong = torch.tensor([[True, False, False], [False, True, False]])
    counted = torch.tensor([[True, True, True], [True, True, False]])
    strength = torch.tensor([[3.0, 1.0, 1.2], [1.1, 2.0, 9.0]])  # the wrong ones' loss is larger
    rows = strength[..., None] * common + torch.where(wrong, -1.0, 1.0)[..., None] * own
    problem = vfunc.ValueProblem(
        construct=lambda phi, batch: {"q": phi["q"]},
        pretrain_loss=lambda theta, task: (task["q"] * (rows @ theta["x"])).sum(),
        feedback_loss=lambda theta: theta["x"].sum(),
        batches=(None,),
        rule=UpdateRule(SGD(0.1)),
        parts=lambda theta, task: task["q"] * (rows @ theta["x"]),
    )
    found = KnownMistakes(problem, {"q": torch.ones(2, 3)}, counted, wrong)
    return found, {"x": torch.zeros(4)}, 5 * common + own, common


def test_deflation_shows_mistakes_that_dot_takes_for_worth():
    found, theta, g_down, mean = made()
    seen = {
        name: scores_along(found, theta, w)
        for name, w in directions({"x": g_down}, {"x": mean}).items()
    }
    assert seen["dot"].area == 0.0 and seen["deflated"].area == 1.0
    assert len(seen["dot"].wrong) == 2 and len(seen["dot"].right) == 3  # what counts, alone


def test_tangents_are_of_the_task_that_is_given():
    found, theta, g_down, _ = made()
    task = {"q": 2 * torch.ones(2, 3)}
    one, two = (
        tangents_of_parts(found.problem, theta, t, {"x": g_down}) for t in (found.task, task)
    )
    assert torch.allclose(two, 2 * one)
    with pytest.raises(UserError, match="needs the terms of the loss"):
        tangents_of_parts(
            vfunc.ValueProblem(
                found.problem.construct,
                found.problem.pretrain_loss,
                found.problem.feedback_loss,
                (None,),
                found.problem.rule,
            ),
            theta,
            task,
            {"x": g_down},
        )


def test_the_table_has_the_columns_that_are_defined():
    rows = {
        "vpretraining": {"feedback_agreement": 0.987, "mean_cosine": 0.5, "auc_dot": 0.417,
                         "auc_deflated": 0.667},
        "random_feedback": {"mean_cosine": -0.25},
    }  # fmt: skip
    text = markdown(signal_table(rows))
    assert "| vpretraining | 0.987 | 0.500 | 0.417 | 0.667 |" in text
    assert "| random_feedback | – | -0.250 | – | – |" in text and "AUC" in text
    without = markdown(signal_table({"vpretraining": {"mean_cosine": 0.5}}))
    assert "| vpretraining | 0.500 |" in without and "AUC" not in without
    with pytest.raises(UserError, match="nothing was seen"):
        signal_table({})
    console = Console(width=80, record=True)
    console.print(signal_table(rows))
    assert all(len(line) <= 80 for line in console.export_text().splitlines())
