"""The arm oracle on pictures: masks in closed form, from the value of each pixel."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_vision_run import new_run, train
from torch import nn

from vfunc import trees
from vfunc.problem import known_feedback, step_gradient
from vfunc.simulate import SGD, UpdateRule
from vfunc.training import step
from vfunc.training.checkpoint import load_checkpoint, save_checkpoint
from vfunc.training.loop import one_step
from vfunc.training.step import feedback_at
from vfunc.vision.designers.views import gaussian_blur, masked_view
from vfunc.vision.learner import ObservedViews
from vfunc.vision.pixel_values import CELLS, pixel_values, worth_keeping
from vfunc.vision.value_problem import vision_problem


def asked(**options):
    """A run of the arm, its next batch, g_down there and the blur."""
    run = new_run("oracle", align="all", **options)
    feedback = feedback_at(run, 0)
    known = known_feedback(feedback.downstream.loss, feedback.theta)
    batch = run.workload.batch(0)
    return run, batch, known.gradient, run.workload.sigma(batch.views)


@pytest.mark.parametrize("objective", ["dino", "ijepa"])
def test_pixel_values_are_derivatives_of_the_value_in_the_mask(objective):
    run, batch, g_down, sigma = asked(objective=objective)
    values = pixel_values(run.estimated, batch, g_down, sigma)
    assert values.shape == batch.views[:, :, :1].shape and not values.requires_grad
    problem = vision_problem(
        run.estimated,
        nn.Identity(),
        (ObservedViews(batch),),
        lambda theta: 0,
        UpdateRule(SGD(1.0)),
        {},
    )
    (observed,) = problem.batches
    theta = run.state.functional.theta

    def value(mask):
        seen = masked_view(batch.views.flatten(0, 1), mask.flatten(0, 1), sigma)
        task = run.estimated.task(seen.unflatten(0, batch.views.shape[:2]), observed)
        return float(trees.dot(g_down, step_gradient(problem, theta, task)))

    ones = torch.ones_like(values)
    along = torch.randn(values.shape, generator=torch.Generator().manual_seed(0))
    h = 1e-2
    slope = (value(ones + h * along) - value(ones - h * along)) / (2 * h)
    assert float((values * along).sum()) == pytest.approx(slope, rel=2e-2)


@pytest.mark.parametrize("augmentor", ["unet", "photometric"])
def test_a_designers_way_to_the_oracle_is_by_the_same_values(augmentor):
    run = new_run("vpretraining", align="all", augmentor=augmentor)
    feedback = feedback_at(run, 0)
    g_down = known_feedback(feedback.downstream.loss, feedback.theta).gradient
    workload, designer = run.workload, run.state.designer
    observed = workload.look_ahead(run.state.learner, workload.batch(3))
    found = workload.values_in_bounds(run.estimated, designer, observed, g_down)
    if augmentor == "photometric":
        assert found == {}
        return
    views = observed.batch.views
    worth = pixel_values(run.estimated, observed.batch, g_down, workload.sigma(views))
    with torch.no_grad():
        mu = torch.stack([designer.control(v) for v in views])
    assert 0.5 < float(mu.min()) < float(mu.max()) < 1
    assert found["text"] == 0
    assert found["designer"] == pytest.approx(-float(((1 - mu) * worth).sum()), rel=1e-4)
    cells = worth.unfold(-2, 4, 4).unfold(-2, 4, 4).flatten(-2).sum(-1)
    assert worth.shape[-1] == 4 * CELLS
    assert found["oracle"] == pytest.approx(-float(cells.clamp(max=0).sum()), rel=1e-4)


def test_cells_are_kept_where_more_of_them_is_worth_something():
    values = torch.randn(2, 3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    kept = worth_keeping(values)
    side = 32 // CELLS
    cells = kept.unfold(-2, side, side).unfold(-2, side, side).flatten(-2)
    assert torch.equal(cells.amin(-1), cells.amax(-1))
    means = values.unfold(-2, side, side).unfold(-2, side, side).flatten(-2).mean(-1)
    assert torch.equal(cells[..., 0], (means >= 0).float())


def test_the_arms_views_are_blurred_by_a_share_where_less_is_worth_more():
    run, batch, g_down, sigma = asked(oracle_blur=0.25)
    workload, learner = run.workload, run.state.learner
    forward = workload.forward(learner, batch, observe=False)

    def built(g_down):
        return workload.build_task(
            learner, "oracle", forward, None, estimated=run.estimated, g_down=g_down
        )

    made = built(g_down)
    worse = worth_keeping(pixel_values(run.estimated, batch, g_down, sigma)) == 0
    assert 0 < worse.float().mean() < 1
    blurred = gaussian_blur(batch.views.flatten(0, 1), sigma).unflatten(0, batch.views.shape[:2])
    expected = torch.where(worse, 0.75 * batch.views + 0.25 * blurred, batch.views)
    assert torch.allclose(made.task[0], expected, atol=1e-6)
    assert made.notes["kept"] == pytest.approx(1 - 0.25 * float(worse.float().mean()))
    # the opposite direction blurs the other cells; none leaves the pictures as they are
    other = built({name: -x for name, x in g_down.items()}).task[0]
    assert torch.allclose(
        other, torch.where(worse, batch.views, 0.75 * batch.views + 0.25 * blurred), atol=1e-6
    )
    nothing = built(None)
    assert torch.equal(nothing.task[0], batch.views) and nothing.notes == {}


@pytest.mark.parametrize(
    ("options", "banks"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"feedback_bank": 4, "feedback_every": 2, "meta_period": 1}, [0, 1, 2]),
        ({"feedback_bank": 4, "feedback_every": 2, "meta_period": 2}, [0, 1]),
    ],
)
def test_g_down_is_held_as_long_as_a_designers_is(monkeypatch, options, banks):
    run = new_run("oracle", budget="6steps", **options)
    seen = []

    def looked(run, index, dropout=None, bank=None):
        seen.append((index, bank))
        return feedback_at(run, index, dropout, bank)

    monkeypatch.setattr(step, "feedback_at", looked)
    for _ in range(6):
        one_step(run)
    assert seen == [(index, options.get("feedback_bank")) for index in banks]


def test_the_learner_is_no_other_without_values_and_is_another_with_them():
    plain = train("baseline").state.learner.state_dict()
    guided = train("oracle").state.learner.state_dict()
    assert plain.keys() == guided.keys()
    assert any(not torch.equal(x, guided[name]) for name, x in plain.items())


def test_a_designer_of_views_is_not_part_of_it():
    run = new_run("oracle")
    assert run.state.designer is None and run.estimator is None
    told = replace(run.workload, oracle_blur=1.0)
    one_step(replace(run, workload=told))


def test_resumed_in_the_middle_of_a_hold_it_is_the_run_that_was_not(tmp_path):
    options = {"feedback_bank": 4, "feedback_every": 4, "meta_period": 1, "budget": "5steps"}

    def go_on(run, steps):
        return [one_step(run)["train_loss"] for _ in range(steps)]

    run = new_run("oracle", **options)
    go_on(run, 2)
    save_checkpoint(run.state, tmp_path / "checkpoint.pt")
    wanted = go_on(run, 3)
    again = new_run("oracle", **options)
    load_checkpoint(again.state, tmp_path / "checkpoint.pt")
    assert again.state.held is not None and go_on(again, 3) == wanted
    learners = run.state.learner.state_dict(), again.state.learner.state_dict()
    assert all(torch.equal(x, learners[1][name]) for name, x in learners[0].items())
