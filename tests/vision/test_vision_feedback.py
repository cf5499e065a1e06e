"""L_down of dense feedback as a function of theta_S: its value, its derivatives, its bounds."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

import vfunc
from vfunc import trees
from vfunc.errors import UserError
from vfunc.trees import tangent_along
from vfunc.vision.data.batches import IGNORE, LabelledBatch
from vfunc.vision.encoder.named_encoder import Encoder
from vfunc.vision.feedback.dense_feedback import dense_losses, feedback_loss
from vfunc.vision.feedback.heads import HeadOptions, fit_heads

CLASSES = {"segmentation": 3, "classification": 2}
TASKS = ("segmentation", "depth", "classification")
WEIGHTS = {"segmentation": 1.0, "depth": 8.0, "classification": 0.5}


class Dispatch(nn.Module):
    """A learner around a tiny ViT, with dropout and running statistics, whose forwards count."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = Encoder(
            VisionTransformer(
                img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=0,
                proj_drop_rate=0.1,
            )
        )  # fmt: skip
        self.norm = nn.BatchNorm2d(3)
        self.forwards = []

    def forward(self, method, *args):
        self.forwards.append(method)
        return getattr(self, method)(*args)

    def dense(self, images, layers):
        return self.encoder.dense(self.norm(images), layers)


@pytest.fixture
def learner():
    return Dispatch().double()


def batch_of(seed, n=3):
    g = torch.Generator().manual_seed(seed)
    segmentation = torch.randint(0, 3, (n, 16, 16), generator=g)
    segmentation[torch.rand(n, 16, 16, generator=g) < 0.3] = IGNORE
    depth = 1 + 5 * torch.rand(n, 16, 16, generator=g, dtype=torch.float64)
    depth[torch.rand(n, 16, 16, generator=g) < 0.3] = 0
    classes = torch.arange(n) % 2
    images = torch.rand(n, 3, 16, 16, generator=g, dtype=torch.float64)
    return LabelledBatch(images, segmentation, depth, classes)


def heads_of(learner, tasks=TASKS, layers=2):
    return fit_heads(learner, batch_of(1), tasks, CLASSES, HeadOptions(layers=layers, steps=20))


def moved(theta, seed):
    return trees.normal_like(theta, torch.Generator().manual_seed(seed))


def gradient(loss, theta):
    theta = trees.leaves(theta)
    return trees.gradient(loss(theta), theta)


@pytest.mark.parametrize("subset", ["last:1", "all"])
@pytest.mark.parametrize("task", TASKS)
def test_g_down_is_the_slope_of_the_loss(learner, subset, task):
    functional = vfunc.functional(learner, subset)
    loss = dense_losses(functional, heads_of(learner, [task]), batch_of(2))[task]
    theta = functional.theta
    v, eps = moved(theta, 3), 1e-6
    with torch.no_grad():
        slope = (loss(trees.axpy(eps, v, theta)) - loss(trees.axpy(-eps, v, theta))) / (2 * eps)
    exact = trees.dot(gradient(loss, theta), v)
    assert float(slope) == pytest.approx(float(exact), rel=1e-6)
    assert abs(float(exact)) > 1e-3
    assert all(p.grad is None for p in learner.parameters())


@pytest.mark.parametrize("task", TASKS)
def test_second_derivatives_in_both_orders(learner, task):
    functional = vfunc.functional(learner, "last:1")
    loss = dense_losses(functional, heads_of(learner, [task]), batch_of(2))[task]
    theta = functional.theta
    v, w = moved(theta, 3), moved(theta, 4)
    eps = 1e-6
    with sdpa_kernel(SDPBackend.MATH):
        up, down = (gradient(loss, trees.axpy(e, v, theta)) for e in (eps, -eps))
        expected = float(trees.dot(trees.axpy(-1.0, down, up), w)) / (2 * eps)
        _, forward = tangent_along(torch.func.grad(loss), theta, v)
        leaves = trees.leaves(theta)
        grads = torch.autograd.grad(loss(leaves), list(leaves.values()), create_graph=True)
        along = sum((g * v[name]).sum() for name, g in zip(leaves, grads))
        backward = trees.gradient(along, leaves)
    assert float(trees.dot(forward, w)) == pytest.approx(expected, rel=1e-5)
    assert float(trees.dot(backward, w)) == pytest.approx(expected, rel=1e-5)
    assert abs(expected) > 1e-3


def test_l_down_is_the_weighted_sum_in_one_forward(learner):
    functional = vfunc.functional(learner, "last:1")
    heads, batch = heads_of(learner), batch_of(2)
    losses = dense_losses(functional, heads, batch)
    loss = feedback_loss(functional, heads, batch, WEIGHTS)
    theta = functional.theta
    expected = sum(w * losses[task](theta) for task, w in WEIGHTS.items())
    learner.forwards.clear()
    assert float(loss(theta)) == pytest.approx(float(expected), rel=1e-12)
    assert learner.forwards == ["dense"]
    assert loss(theta).shape == ()


def test_each_task_of_equal_length_when_normalised(learner):
    functional = vfunc.functional(learner, "last:1")
    heads, batch, theta = heads_of(learner), batch_of(2), functional.theta
    losses = dense_losses(functional, heads, batch)
    loss = feedback_loss(functional, heads, batch, WEIGHTS, normalise_at=theta)
    expected = trees.zeros_like(theta)
    for task, w in WEIGHTS.items():
        g = gradient(losses[task], theta)
        expected = trees.axpy(w / float(trees.norm(g)), g, expected)
    difference = trees.axpy(-1.0, expected, gradient(loss, theta))
    assert float(trees.norm(difference)) < 1e-12 * float(trees.norm(expected))


def test_the_loss_is_a_mean_over_what_is_labelled(learner):
    """An all-void picture adds nothing, and a batch of two weighs by pixels, not by picture."""
    functional = vfunc.functional(learner, "last:1")
    heads, two, theta = heads_of(learner, TASKS[:2]), batch_of(2, n=2), functional.theta
    void = LabelledBatch(
        torch.cat([two.images, torch.rand(1, 3, 16, 16).double()]),
        torch.cat([two.segmentation, torch.full((1, 16, 16), IGNORE)]),
        torch.cat([two.depth, torch.zeros(1, 16, 16).double()]),
    )
    with torch.no_grad():
        for task in TASKS[:2]:
            one, other = (dense_losses(functional, heads, b)[task](theta) for b in (two, void))
            assert float(one) == pytest.approx(float(other), rel=1e-12)
        known, parts = [], []
        for n in range(2):
            alone = LabelledBatch(two.images[n : n + 1], depth=two.depth[n : n + 1])
            only = replace(heads, by_task={"depth": heads.by_task["depth"]})
            parts.append(float(dense_losses(functional, only, alone)["depth"](theta)))
            known.append(int((alone.depth > 0).sum()))
        pooled = sum(k * p for k, p in zip(known, parts)) / sum(known)
        assert float(dense_losses(functional, heads, two)["depth"](theta)) == pytest.approx(pooled)
        assert known[0] != known[1]


def test_tasks_that_a_batch_says_nothing_of_are_left_out(learner):
    functional = vfunc.functional(learner, "last:1")
    heads, theta = heads_of(learner), functional.theta
    dark = replace(batch_of(2), depth=torch.zeros(3, 16, 16).double())
    losses = dense_losses(functional, heads, dark)
    assert list(losses) == ["segmentation", "classification"]
    expected = sum(WEIGHTS[task] * loss(theta) for task, loss in losses.items())
    assert float(feedback_loss(functional, heads, dark, WEIGHTS)(theta)) == pytest.approx(
        float(expected), rel=1e-12
    )
    nothing = replace(
        dark,
        segmentation=torch.full((3, 16, 16), IGNORE),
        classes=torch.full((3,), IGNORE),
    )
    with pytest.raises(UserError, match="all 3 pictures of the feedback batch are void") as caught:
        feedback_loss(functional, heads, nothing, WEIGHTS)
    assert "\n" not in str(caught.value)


def test_weights_of_other_tasks_are_refused(learner):
    functional = vfunc.functional(learner, "last:1")
    heads = heads_of(learner, TASKS[:2])
    for wrong in (WEIGHTS, {"depth": 1.0}):
        with pytest.raises(UserError, match="the heads are for segmentation, depth"):
            feedback_loss(functional, heads, batch_of(2), wrong)
    with pytest.raises(UserError, match="not all zero"):
        feedback_loss(functional, heads, batch_of(2), dict.fromkeys(TASKS[:2], 0.0))


def test_the_learner_is_untouched_and_in_eval_mode(learner):
    functional = vfunc.functional(learner, "last:1")
    heads = heads_of(learner)
    learner.train()
    before, state = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    loss = feedback_loss(functional, heads, batch_of(2), WEIGHTS)
    gradient(loss, functional.theta)
    assert float(loss(functional.theta)) == float(loss(functional.theta))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in learner.state_dict().items())
    assert all(module.training for module in learner.modules())
    assert all(p.grad is None for p in learner.parameters())
    learner.eval()
    with torch.no_grad():
        dense = learner("dense", batch_of(2).images, 2)
        trained_mode = loss(functional.theta)
    sums = vfunc.vision.feedback.head_losses.loss_sums(heads, dense, batch_of(2))
    expected = sum(WEIGHTS[t] * s.total.sum() / s.count.sum() for t, s in sums.items())
    assert float(trained_mode) == pytest.approx(float(expected), rel=1e-12)
