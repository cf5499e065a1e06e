"""Evaluation on a frozen backbone: probes against a literal reading, and what they leave alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vfunc.errors import UserError
from vfunc.storage.overflow import Overflow
from vfunc.vision.data.batches import IGNORE, LabelledBatch
from vfunc.vision.encoder.encoder import DenseFeatures
from vfunc.vision.evaluation.frozen_evaluation import fitted_loss, probed
from vfunc.vision.evaluation.held_features import held_features
from vfunc.vision.evaluation.probes import ProbeOptions, train_probe
from vfunc.vision.feedback.head_losses import loss_sums
from vfunc.vision.feedback.heads import HeadOptions, fit_heads, frozen_features

CLASSES = {"segmentation": 3, "classification": 3}
TASKS = ("segmentation", "depth", "classification")
METRICS = {
    "segmentation": ({"miou", "pixel_accuracy"}, "image_iou"),
    "depth": ({"rmse", "abs_rel", "delta_1"}, "image_rmse"),
    "classification": ({"linear_accuracy", "knn_accuracy"}, "linear_correct"),
}


class Patches(nn.Module):
    """Features are patches' mean colours; dropout and running statistics are to be left alone."""

    def __init__(self, blind=False):
        super().__init__()
        self.blind = blind
        self.norm = nn.BatchNorm2d(3)
        self.dropout = nn.Dropout(0.5)
        self.scale = nn.Parameter(torch.ones(3, 1, 1))

    def forward(self, method, *args):
        return getattr(self, method)(*args)

    def dense(self, images, layers):
        maps = self.dropout(self.norm(F.avg_pool2d(images, 4))) * self.scale
        maps = maps * 0 if self.blind else maps
        return DenseFeatures(maps.mean((2, 3)), maps.repeat(1, layers, 1, 1))


def scenes(n, seed):
    """Colour says the class, brightness the depth; two void pixels a token, one void picture."""
    g = torch.Generator().manual_seed(seed)
    segmentation = torch.randint(0, 3, (n, 2, 2), generator=g)
    segmentation = segmentation.repeat_interleave(2, 1).repeat_interleave(2, 2)
    depth = 1 + 3 * torch.rand(n, 4, 4, generator=g)
    images = F.one_hot(segmentation, 3).permute(0, 3, 1, 2) * 0.3 + 0.15 * depth[:, None]
    classes = torch.arange(n) % 3
    images = images + 0.2 * F.one_hot(classes, 3)[:, :, None, None]
    images, segmentation, depth = (
        x.repeat_interleave(4, -1).repeat_interleave(4, -2) for x in (images, segmentation, depth)
    )
    segmentation[:, ::4, ::2], depth[:, ::2, ::4] = IGNORE, 0
    segmentation[3], depth[5] = IGNORE, 0
    return LabelledBatch(images, segmentation, depth, classes)


def evaluate_frozen(learner, fit, test, tasks, classes, options, overflow=None):
    room = overflow or Overflow(math.inf)
    sides = (held_features(learner, x, options.layers, tasks, classes, room) for x in (fit, test))
    return probed(*sides, tasks, classes, options)


def evaluate_quickly(learner, fit, test, weights, classes, options, overflow=None):
    room, tasks = overflow or Overflow(math.inf), tuple(weights)
    sides = (held_features(learner, x, options.layers, tasks, classes, room) for x in (fit, test))
    return fitted_loss(*sides, weights, classes, options, room)


@pytest.fixture(scope="module")
def results():
    learner = Patches()
    return evaluate_frozen(learner, scenes(48, 0), scenes(30, 1), TASKS, CLASSES, ProbeOptions())


def test_names_and_outcomes(results):
    assert set(results.metrics) == set().union(*(names for names, _ in METRICS.values()))
    lengths = {name: len(x) for name, x in results.outcomes.items()}
    # the void picture is left out
    assert lengths == {"image_iou": 29, "image_rmse": 29, "linear_correct": 30}
    assert all(isinstance(x, float) and math.isfinite(x) for x in results.metrics.values())
    correct = results.outcomes["linear_correct"]
    assert results.metrics["linear_accuracy"] == pytest.approx(sum(correct) / len(correct))


def test_features_that_tell_beat_features_that_do_not(results):
    blind = evaluate_frozen(
        Patches(blind=True), scenes(48, 0), scenes(30, 1), TASKS, CLASSES, ProbeOptions()
    )
    assert results.metrics["miou"] > 0.6 > 0.4 > blind.metrics["miou"]
    assert results.metrics["rmse"] < 0.7 * blind.metrics["rmse"]
    assert results.metrics["delta_1"] > blind.metrics["delta_1"]
    assert results.metrics["linear_accuracy"] > 0.8 > 0.5 > blind.metrics["linear_accuracy"]
    assert results.metrics["knn_accuracy"] > 0.6


def test_a_single_task_is_measured_alone_and_the_same(results):
    for task, (names, outcomes) in METRICS.items():
        alone = evaluate_frozen(
            Patches(), scenes(48, 0), scenes(30, 1), [task], CLASSES, ProbeOptions()
        )
        assert dict(alone.metrics) == {name: results.metrics[name] for name in names}
        assert dict(alone.outcomes) == {outcomes: results.outcomes[outcomes]}


@pytest.mark.parametrize("quick", [True, False])
def test_the_learner_and_the_random_state_are_untouched(quick):
    learner = Patches()
    learner.norm.eval()
    before, state = copy.deepcopy(learner.state_dict()), torch.get_rng_state()
    if quick:
        weights = dict.fromkeys(TASKS, 1.0)
        found = evaluate_quickly(
            learner, scenes(9, 0), scenes(8, 1), weights, CLASSES, HeadOptions()
        )
    else:
        options = ProbeOptions(steps=3)
        found = evaluate_frozen(learner, scenes(9, 0), scenes(8, 1), TASKS, CLASSES, options)
    assert found.metrics and torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in learner.state_dict().items())
    assert all(p.grad is None for p in learner.parameters())
    assert (learner.training, learner.norm.training, learner.dropout.training) == (1, 0, 1)


@pytest.mark.parametrize("task", ["segmentation", "depth"])
def test_a_probe_is_batch_norm_and_a_convolution_trained_by_adamw(task):
    """The same by nn modules, torch's interpolation and AdamW as they come."""
    batch = scenes(7, 0)
    batch = replace(batch, depth=batch.depth.double())
    maps = frozen_features(Patches().double(), batch.images.double(), 1).maps
    options = ProbeOptions(steps=4, batch_size=3, seed=5, lr=0.5, weight_decay=0.3)
    probe = train_probe(task, maps, batch, 3, options)

    g = torch.Generator().manual_seed(5)
    told = [n for n in range(7) if n != (3 if task == "segmentation" else 5)]
    order = torch.cat([torch.randperm(6, generator=g) for _ in range(2)]).tolist()
    norm, conv = nn.BatchNorm2d(3).double(), nn.Conv2d(3, 3 if task == "segmentation" else 1, 1)
    conv = conv.double()
    nn.init.zeros_(conv.weight)
    known = batch.depth[batch.depth > 0]
    unit = float(known.median())
    counts = torch.tensor([float((batch.segmentation == c).sum()) + 1 for c in range(3)]).double()
    start = (counts / counts.sum()).log() if task == "segmentation" else math.log(math.e - 1)
    conv.bias.data[:] = start
    rest = [*norm.parameters(), conv.bias]
    optimizer = torch.optim.AdamW(
        [{"params": [conv.weight], "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]
    )

    def predict(x):
        z = conv(norm(x))
        z = z if task == "segmentation" else unit * F.softplus(z) + 1e-3
        return F.interpolate(z, size=(16, 16), mode="bilinear", align_corners=False)

    for step in range(4):
        for group in optimizer.param_groups:
            group["lr"] = 0.5 / 3 * (1 - step / 4)
        at = [told[i] for i in order[3 * step : 3 * step + 3]]
        predicted = predict(maps[at])
        if task == "segmentation":
            loss = F.cross_entropy(predicted, batch.segmentation[at], ignore_index=IGNORE)
        else:
            valid = batch.depth[at] > 0
            loss = F.l1_loss(predicted[:, 0][valid], batch.depth[at][valid]) / unit
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    norm.eval()
    expected = predict(maps).detach()
    expected = expected if task == "segmentation" else expected[:, 0]
    found = probe(maps, (16, 16))
    assert (found - expected).abs().max() < 1e-9
    assert not found.requires_grad
    # the statistics are the running ones: a picture does not depend on its company
    assert (probe(maps[:1], (16, 16)) - found[:1]).abs().max() < 1e-12


def test_the_range_of_depth_bounds_training_and_measurement():
    fit, test = scenes(20, 0), scenes(10, 1)
    far = replace(fit, depth=torch.where(fit.depth > 2.5, 50.0, fit.depth))
    cut = replace(fit, depth=torch.where(fit.depth > 2.5, 0.0, fit.depth))
    options = ProbeOptions(steps=20)
    one, other = (
        evaluate_frozen(Patches(), f, test, ["depth"], CLASSES, options) for f in (far, cut)
    )
    assert one.metrics == other.metrics
    near = evaluate_frozen(Patches(), cut, test, ["depth"], CLASSES, replace(options, farthest=2.0))
    assert near.metrics["rmse"] != one.metrics["rmse"]
    cropped = evaluate_frozen(
        Patches(), cut, test, ["depth"], CLASSES, replace(options, eigen_crop=True)
    )
    assert cropped.metrics["rmse"] != one.metrics["rmse"]
    with pytest.raises(UserError, match="void for depth"):
        beyond = replace(fit, depth=fit.depth * 100)
        evaluate_frozen(Patches(), beyond, test, ["depth"], CLASSES, options)


def test_the_quick_loss_is_that_of_the_feedback_on_all_test_pictures():
    learner, fit, test = Patches(), scenes(30, 0), scenes(70, 1)
    weights = {"segmentation": 1.0, "depth": 8.0, "classification": 0.5}
    found = evaluate_quickly(learner, fit, test, weights, CLASSES, HeadOptions())
    heads = fit_heads(learner, fit, TASKS, CLASSES, HeadOptions())
    sums = loss_sums(heads, frozen_features(learner, test.images, 1), test)
    parts = {task: float(s.total.sum() / s.count.sum()) for task, s in sums.items()}
    for task, part in parts.items():
        assert found.metrics[f"{task}_loss"] == pytest.approx(part, rel=1e-5)
    loss = sum(weights[task] * part for task, part in parts.items())
    assert found.metrics["loss"] == pytest.approx(loss, rel=1e-5)
    each = found.outcomes["loss"]
    assert len(each) == 70 and sum(each) / 70 == pytest.approx(loss, rel=1e-5)
    only = evaluate_quickly(learner, fit, test, {"depth": 1.0}, CLASSES, HeadOptions())
    assert only.outcomes["loss"][5] == 0 < min(only.outcomes["loss"][:5])


def test_what_cannot_be_measured_is_refused():
    fit, test = scenes(12, 0), scenes(8, 1)
    void = replace(test, segmentation=torch.full_like(test.segmentation, IGNORE))
    with pytest.raises(UserError, match="all 8 labelled pictures are void for segmentation"):
        evaluate_frozen(Patches(), fit, void, TASKS, CLASSES, ProbeOptions(steps=1))
    with pytest.raises(UserError, match="no classification labels"):
        unknown = replace(fit, classes=None)
        evaluate_quickly(Patches(), unknown, test, {"classification": 1.0}, CLASSES, HeadOptions())
    with pytest.raises(UserError, match="from 1"):
        ProbeOptions(steps=0)
