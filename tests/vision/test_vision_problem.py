"""The whole vision path in float64: designer, view, teacher, edge, student; every engine."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small_vision import DINO, OBJECTIVES, crops, small_learner, small_problem

import vfunc
from vfunc import trees
from vfunc.problem import construct_task
from vfunc.simulate import SGD, AdamW, UpdateRule
from vfunc.split import Split, Whole
from vfunc.vision.learner import ObservedViews, VisionLearner

EXACT = ("reverse", "forward")
# I-JEPA's smooth L1 has kinks in its derivative, and so the value has corners: few lie within so
# short a step
STEPS = {"dino": (1e-3, 5e-4), "ijepa": (2e-6, 1e-6)}
# the larger, the fewer iterations, and the smaller the value
DAMPINGS = {"dino": 1000.0, "ijepa": 100.0}


def objective_along(estimator, problem, theta, phi, along, step):
    moved = trees.axpy(step, along, phi)
    return float(estimator(problem, theta, moved).objective)


def slope(estimator, problem, theta, phi, along, steps):
    """Richardson's central difference of the objective."""
    found = []
    for h in steps:
        ends = [objective_along(estimator, problem, theta, phi, along, s) for s in (h, -h)]
        found.append((ends[0] - ends[1]) / (2 * h))
    return (4 * found[1] - found[0]) / 3


def assert_is_the_slope(estimator, problem, theta, phi, objective="dino", tolerance=1e-6):
    draw = torch.Generator().manual_seed(0)
    along = {name: torch.randn(x.shape, generator=draw, dtype=x.dtype) for name, x in phi.items()}
    along = trees.scale(along, 1 / float(trees.norm(along)))
    grad = estimator(problem, theta, phi).grad
    steps = STEPS[objective]
    error = abs(float(trees.dot(grad, along)) - slope(estimator, problem, theta, phi, along, steps))
    assert float(trees.norm(grad)) > 1e-9
    assert error <= tolerance * float(trees.norm(grad))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("cut", [True, False], ids=["split", "whole"])
@pytest.mark.parametrize("engine", EXACT)
def test_engines_give_the_slope_of_the_value(objective, cut, engine):
    problem, theta, phi = small_problem(OBJECTIVES[objective], cut=cut)
    assert_is_the_slope(vfunc.FirstOrder("dot", engine=engine), problem, theta, phi, objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("engine", EXACT)
def test_engines_at_all_parameters(objective, engine):
    """Patch embedding, positions and class token too; positions are resampled for local crops."""
    problem, theta, phi = small_problem(OBJECTIVES[objective], subset="all", cut=False)
    assert "encoder.vit.pos_embed" in theta
    assert_is_the_slope(vfunc.FirstOrder("dot", engine=engine), problem, theta, phi, objective)


@pytest.mark.parametrize("kind", ["dit", "photometric"])
def test_other_designers(kind):
    problem, theta, phi = small_problem(DINO, kind=kind)
    assert_is_the_slope(vfunc.FirstOrder("dot"), problem, theta, phi)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("subset", ["last:1", "last:2", r"re:encoder\.vit\.(blocks\.2|norm)"])
def test_split_and_whole_agree(objective, subset):
    estimates = []
    for cut in (True, False):
        problem, theta, phi = small_problem(OBJECTIVES[objective], subset=subset, cut=cut)
        for engine in EXACT:
            estimates.append(vfunc.FirstOrder("dot", engine=engine)(problem, theta, phi))
    first = estimates[0]
    for other in estimates[1:]:
        torch.testing.assert_close(other.value, first.value, rtol=1e-11, atol=1e-15)
        apart = trees.norm(trees.axpy(-1.0, first.grad, other.grad))
        assert float(apart) <= 1e-11 * float(trees.norm(first.grad))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_finite_difference_engine(objective):
    problem, theta, phi = small_problem(OBJECTIVES[objective])
    exact = vfunc.FirstOrder("dot", engine="reverse")(problem, theta, phi).grad
    near = vfunc.FirstOrder("dot", engine="finite_difference")(problem, theta, phi).grad
    apart = trees.norm(trees.axpy(-1.0, exact, near))
    assert float(apart) <= 1e-5 * float(trees.norm(exact))


@pytest.mark.parametrize("value", ["cosine", "preconditioned"])
def test_other_values(value):
    rule = UpdateRule(AdamW(lr=1e-2, eps=1e-3, weight_decay=0.04))
    problem, theta, phi = small_problem(DINO, rule=rule)
    assert_is_the_slope(vfunc.FirstOrder(value), problem, theta, phi)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("engine", EXACT)
def test_unrolled_over_several_batches(objective, engine):
    rule = UpdateRule(AdamW(lr=1e-2, eps=1e-3, weight_decay=0.04))
    problem, theta, phi = small_problem(OBJECTIVES[objective], batches=2, rule=rule)
    assert_is_the_slope(vfunc.Unrolled(2, engine=engine), problem, theta, phi, objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_implicit(objective):
    problem, theta, phi = small_problem(OBJECTIVES[objective], subset="last:1")
    estimator = vfunc.Implicit(damping=DAMPINGS[objective], solver_tolerance=1e-11)
    # the value is a small difference of two losses: long steps, or rounding drowns it
    assert_is_the_slope(estimator, problem, theta, phi)


def test_implicit_with_gauss_newton_is_near():
    problem, theta, phi = small_problem(DINO, subset="last:1")
    options = {"damping": 100.0, "solver_tolerance": 1e-4}
    exact = vfunc.Implicit(**options)(problem, theta, phi)
    near = vfunc.Implicit(**options, curvature="gauss_newton")(problem, theta, phi)
    assert near.approximations
    assert float(trees.cosine(near.grad, exact.grad)) > 0.9


def test_linear_is_refused():
    problem, theta, phi = small_problem(DINO)
    with pytest.raises(vfunc.UserError, match="linear"):
        vfunc.FirstOrder("dot", engine="linear")(problem, theta, phi)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_what_carries_phi(objective):
    """With a split: the edge, and DINO's targets, whose teacher sees the view; else the view."""
    for cut, entry in ((True, "views edge"), (False, "views")):
        problem, _, phi = small_problem(OBJECTIVES[objective], cut=cut)
        designed = construct_task(problem, phi, problem.batches[0]).designed
        assert set(designed) == {entry, *(["targets"] if objective == "dino" else [])}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_transforms_leave_the_blocks_below_alone(objective):
    problem, theta, phi = small_problem(OBJECTIVES[objective])
    construction = construct_task(problem, phi, problem.batches[0])
    called = []
    live = _module_of(problem)
    handles = [
        block.attn.register_forward_hook(lambda *_, i=i: called.append(i))
        for i, block in enumerate(live.encoder.vit.blocks)
    ]
    try:
        problem.pretrain_loss(theta, construction.task)
    finally:
        for handle in handles:
            handle.remove()
    assert set(called) == {1, 2}
    assert torch.equal(construction.task["views"], problem.batches[0].batch.views)


class _Bypass(type(small_learner(DINO))):
    """A student whose head sees a pixel of the picture beside the features."""

    def logits(self, images):
        return super().logits(images) + images[:, 0, :1, 0]


def test_a_picture_that_passes_by_the_edge_is_not_cut():
    module = small_learner(DINO)
    functional = vfunc.functional(module, "last:2")
    assert isinstance(VisionLearner(functional, DINO).cut(crops(DINO)).split, Split)
    module.__class__ = _Bypass
    split = VisionLearner(functional, DINO).cut(crops(DINO)).split
    assert isinstance(split, Whole) and "picture" in split.why


def _module_of(problem):
    learner = problem.composite.outputs.__self__
    assert isinstance(learner, VisionLearner)
    return learner.functional.module


def test_the_teacher_of_ijepa_sees_the_picture_as_it_is():
    problem, _, phi = small_problem(OBJECTIVES["ijepa"])
    batch, task = problem.batches[0].batch, construct_task(problem, phi, problem.batches[0]).task
    module = _module_of(problem)
    clean = module("teacher_features", batch.views[0], batch.blocks.targets)
    assert torch.equal(task["targets"], clean)


def test_parts_add_up_and_belong_to_their_pictures():
    problem, theta, phi = small_problem(DINO)
    task = construct_task(problem, phi, problem.batches[0]).task
    parts = problem.parts(theta, task)
    torch.testing.assert_close(parts.sum(), problem.pretrain_loss(theta, task))
    other = dict(task)
    other["targets"] = task["targets"].clone()
    other["targets"][:, 1] = other["targets"][:, 1].flip(-1)
    moved = problem.parts(theta, other)
    assert float(moved[0]) == float(parts[0]) and float(moved[1]) != float(parts[1])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_estimate_changes_nothing(objective):
    problem, theta, phi = small_problem(OBJECTIVES[objective], batches=2)
    module = _module_of(problem)
    module.train()
    before = {name: x.clone() for name, x in module.state_dict().items()}
    random = torch.get_rng_state()
    vfunc.Unrolled(2)(problem, theta, phi)
    for name, x in module.state_dict().items():
        assert torch.equal(x, before[name]), name
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in module.parameters())
    assert module.training and not module.teacher_encoder.training


def test_a_batch_of_fewer_pictures_is_the_first_of_them():
    batch = crops(DINO, pictures=3)
    first = batch.first(2)
    assert len(first) == 2
    assert torch.equal(first.views, batch.views[:, :2])
    assert torch.equal(first.locals, batch.locals[:, :2])


def test_a_second_batch_has_edges_of_its_own():
    problem, _, _ = small_problem(DINO, batches=2)
    first, second = (observed.edges["locals"] for observed in problem.batches)
    assert not torch.equal(first, second)
    again = replace(problem.batches[0], edges={})
    assert isinstance(again, ObservedViews)


def test_plain_sgd_limit_of_unrolled():
    """unrolled(K = 1) - eta V = O(eta^2), through the whole vision path."""
    gaps = []
    for lr in (1e-3, 5e-4):
        problem, theta, phi = small_problem(DINO, rule=UpdateRule(SGD(lr=lr)))
        one = vfunc.Unrolled(1)(problem, theta, phi).value
        first = vfunc.FirstOrder("dot")(problem, theta, phi).value
        gaps.append(abs(float(one - first)))
    assert 3.5 < gaps[0] / gaps[1] < 4.5
