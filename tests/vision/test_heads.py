"""The feedback's heads: what they say, what their fit minimises, and that nothing else moves."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from vfunc.errors import UserError
from vfunc.vision.data.batches import IGNORE, LabelledBatch
from vfunc.vision.encoder.encoder import DenseFeatures
from vfunc.vision.feedback.head_fits import FITS, UNIT
from vfunc.vision.feedback.head_losses import Head, Heads, loss_sums, predict, resize
from vfunc.vision.feedback.heads import HeadOptions, fit_heads, fit_on_features, frozen_features

CLASSES = {"segmentation": 3, "classification": 2}
TASKS = ("segmentation", "depth", "classification")


class Pooling(nn.Module):
    """A learner with what a fit must leave alone: dropout, running statistics, gradients."""

    def __init__(self, width=5):
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.norm = nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(0.5)

    def forward(self, method, *args):
        return getattr(self, method)(*args)

    def dense(self, images, layers):
        maps = self.dropout(self.norm(self.patches(images)))
        return DenseFeatures(maps.mean((2, 3)), maps.repeat(1, layers, 1, 1))


def draw(seed):
    return torch.Generator().manual_seed(seed)


def batch_of(n=4, height=12, width=8, seed=0):
    g = draw(seed)
    segmentation = torch.randint(0, 3, (n, height, width), generator=g)
    segmentation[torch.rand(n, height, width, generator=g) < 0.3] = IGNORE
    depth = 5 * torch.rand(n, height, width, generator=g)
    depth[torch.rand(n, height, width, generator=g) < 0.3] = 0
    classes = torch.randint(0, 2, (n,), generator=g)
    classes[:2] = torch.tensor([0, 1])
    return LabelledBatch(torch.rand(n, 3, height, width, generator=g), segmentation, depth, classes)


def features_of(n=4, d=5, gh=3, gw=2, seed=1):
    g = draw(seed)
    return DenseFeatures(
        torch.randn(n, d, generator=g, dtype=torch.float64),
        3 * torch.randn(n, d, gh, gw, generator=g, dtype=torch.float64) + 7,
    )


def heads_of(d=5, seed=2):
    g = draw(seed)
    sizes = {"segmentation": 3, "depth": 1, "classification": 2}
    made = {
        task: Head(
            torch.randn(k, d, generator=g, dtype=torch.float64) / 5,
            torch.randn(k, generator=g, dtype=torch.float64),
            2.5 if task == "depth" else 1.0,
        )
        for task, k in sizes.items()
    }
    return Heads(1, made)


@pytest.mark.parametrize("size", [(12, 8), (7, 11), (3, 2), (2, 1), (64, 64)])
def test_resize_is_bilinear_interpolation(size):
    x = torch.randn(2, 3, 3, 2, generator=draw(0), dtype=torch.float64)
    expected = F.interpolate(x, size=size, mode="bilinear", align_corners=False)
    assert (resize(x, size) - expected).abs().max() < 1e-14


def test_losses_are_their_literal_definitions():
    batch, features, heads = batch_of(), features_of(), heads_of()
    batch = replace(batch, depth=batch.depth.double())
    found = loss_sums(heads, features, batch)
    h = {task: (head.weight, head.bias) for task, head in heads.by_task.items()}

    def interpolated(task):
        w, b = h[task]
        z = torch.stack([torch.stack([w @ features.maps[n, :, i, j] + b
                                      for i in range(3) for j in range(2)], 1).view(-1, 3, 2)
                         for n in range(4)])  # fmt: skip
        if task == "depth":
            z = 2.5 * (1 + z.exp()).log() + 1e-3
        return F.interpolate(z, size=(12, 8), mode="bilinear", align_corners=False)

    logits, metres = interpolated("segmentation"), interpolated("depth")
    for n in range(4):
        ce, l1, known, deep = 0.0, 0.0, 0, 0
        for i in range(12):
            for j in range(8):
                c, d = int(batch.segmentation[n, i, j]), float(batch.depth[n, i, j])
                if c != IGNORE:
                    row = logits[n, :, i, j].tolist()
                    ce += math.log(sum(math.exp(x) for x in row)) - row[c]
                    known += 1
                if d > 0:
                    l1 += abs(float(metres[n, 0, i, j]) - d)
                    deep += 1
        assert float(found["segmentation"].total[n]) == pytest.approx(ce, rel=1e-12)
        assert float(found["depth"].total[n]) == pytest.approx(l1, rel=1e-12)
        assert (found["segmentation"].count[n], found["depth"].count[n]) == (known, deep)
        w, b = h["classification"]
        z = (w @ features.pooled[n] + b).tolist()
        right = z[int(batch.classes[n])]
        expected = math.log(sum(map(math.exp, z))) - right
        assert float(found["classification"].total[n]) == pytest.approx(expected, rel=1e-12)


def test_a_picture_without_a_class_adds_nothing_to_the_classification_loss():
    batch = replace(batch_of(), classes=torch.tensor([0, IGNORE, 1, 1]))
    heads = Heads(1, {"classification": heads_of().by_task["classification"]})
    sums = loss_sums(heads, features_of(), batch)["classification"]
    assert (sums.total[1], sums.count.tolist()) == (0, [1, 0, 1, 1])


@pytest.mark.parametrize(("height", "width"), [(12, 8), (13, 7)])
def test_the_fit_of_segmentation_is_the_cross_entropy_of_every_pixel(height, width):
    batch, features = batch_of(height=height, width=width), features_of()
    fit = FITS["segmentation"](features, batch, 3)
    z = torch.randn(4 * 3 * 2, 3, generator=draw(5), dtype=torch.float64)
    terms = []
    for n in range(4):
        for i in range(height):
            for j in range(width):
                c = int(batch.segmentation[n, i, j])
                if c != IGNORE:
                    row = z[n * 6 + (i * 3 // height) * 2 + j * 2 // width]
                    terms.append(-row.log_softmax(0)[c])
    assert float(fit.loss(z)) == pytest.approx(float(torch.stack(terms).mean()), rel=1e-12)
    assert torch.equal(fit.x[2 * 6 + 1 * 2 + 1], features.maps[2, :, 1, 1])


def test_the_fit_of_depth_is_the_absolute_error_of_every_pixel():
    # 24 x 16 pixels on 3 x 2 tokens: parts of 2 x 2 pixels, each of one depth or unknown
    g = draw(3)
    depth = 1 + 5 * torch.rand(4, 12, 8, generator=g, dtype=torch.float64)
    depth = depth.repeat_interleave(2, 1).repeat_interleave(2, 2)
    depth[torch.rand(depth.shape, generator=g) < 0.3] = 0
    depth[torch.rand(depth.shape, generator=g) < 0.1] = -1  # no depth either
    batch = LabelledBatch(torch.rand(4, 3, 24, 16), depth=depth)
    fit = FITS["depth"](features_of(), batch, 1)
    z = torch.randn(24, 1, generator=g, dtype=torch.float64)
    errors = []
    for n in range(4):
        for i in range(24):
            for j in range(16):
                if depth[n, i, j] > 0:
                    raw = z[n * 6 + (i // 8) * 2 + j // 8]
                    errors.append((fit.scale * (1 + raw.exp()).log() + 1e-3 - depth[n, i, j]).abs())
    mean = float(torch.stack(errors).mean())
    assert fit.scale == float(depth[depth > 0].median())
    assert float(fit.loss(z)) * fit.scale == pytest.approx(mean, rel=1e-12)
    start = predict("depth", Head(torch.zeros(1, 5).double(), fit.start, fit.scale), features_of())
    assert float(start[0, 0, 0]) == pytest.approx(fit.scale + 1e-3, rel=1e-12)
    assert math.log(1 + math.exp(UNIT)) == pytest.approx(1, abs=1e-15)


def test_standardisation_is_folded_in():
    """Features in other units give heads that say the same."""
    batch, features = batch_of(), features_of()
    factor = torch.tensor([1e3, 3.0, 20.0, 0.5e3, 7.0], dtype=torch.float64)
    offset = torch.tensor([-5.0, 100.0, 0.0, 2.0, -30.0], dtype=torch.float64)
    options = HeadOptions(steps=30)
    other = DenseFeatures(
        features.pooled * factor + offset,
        features.maps * factor[:, None, None] + offset[:, None, None],
    )
    # against EPSILON the variances are large in both
    big = DenseFeatures(features.pooled * 1e4, features.maps * 1e4)
    for task, head in fit_on_features(big, batch, TASKS, CLASSES, options).by_task.items():
        one = predict(task, head, big, (12, 8))
        again = fit_on_features(other, batch, TASKS, CLASSES, options).by_task[task]
        assert (predict(task, again, other, (12, 8)) - one).abs().max() < 1e-3
        assert one.std() > 0.1


def test_a_fit_reaches_the_best_linear_head():
    """On noisy labels the minimum is finite: the fit's loss comes near scikit-learn's."""
    from sklearn.linear_model import LogisticRegression

    g = draw(4)
    maps = torch.randn(8, 5, 3, 2, generator=g, dtype=torch.float64)
    scores = torch.einsum("kd,ndij->nkij", torch.randn(3, 5, generator=g).double(), maps)
    noisy = (scores + 2 * torch.randn(scores.shape, generator=g)).argmax(1)
    labels = noisy.repeat_interleave(4, 1).repeat_interleave(4, 2)
    batch = LabelledBatch(torch.rand(8, 3, 12, 8), segmentation=labels)
    options = HeadOptions(steps=300, weight_decay=0.0)
    features = DenseFeatures(maps.mean((2, 3)), maps)
    fit = FITS["segmentation"](features, batch, 3)
    head = fit_on_features(features, batch, ["segmentation"], CLASSES, options)
    head = head.by_task["segmentation"]
    best = LogisticRegression(C=1e6, max_iter=1000).fit(fit.x.numpy(), noisy.flatten().numpy())
    z = torch.from_numpy(best.decision_function(fit.x.numpy()))
    found = float(fit.loss(fit.x @ head.weight.mT + head.bias))
    start = float(fit.loss(fit.start.expand(48, 3)))
    assert found == pytest.approx(float(fit.loss(z)), abs=2e-3)
    assert start > found + 0.1
    shrunk = fit_on_features(
        features, batch, ["segmentation"], CLASSES, HeadOptions(steps=300, weight_decay=1.0)
    )
    assert shrunk.by_task["segmentation"].weight.norm() < head.weight.norm() / 2


def test_the_learner_is_untouched_bit_for_bit():
    torch.manual_seed(0)
    learner = Pooling()
    learner.norm.eval()  # a mode of its own
    before = copy.deepcopy(learner.state_dict())
    state = torch.get_rng_state()
    heads = fit_heads(learner, batch_of(), TASKS, CLASSES, HeadOptions(layers=2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(x, before[name]) for name, x in learner.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in learner.parameters())
    assert (learner.training, learner.norm.training, learner.dropout.training) == (1, 0, 1)
    for head in heads.by_task.values():
        assert not head.weight.requires_grad and not head.bias.requires_grad
    assert heads.layers == 2 and heads.by_task["depth"].weight.shape == (1, 10)
    again = fit_heads(learner, batch_of(), TASKS, CLASSES, HeadOptions(layers=2))
    for task, head in heads.by_task.items():
        assert torch.equal(head.weight, again.by_task[task].weight)
    with torch.no_grad():  # a caller's own mode does not matter
        quiet = fit_heads(learner, batch_of(), TASKS, CLASSES, HeadOptions(layers=2))
    assert torch.equal(quiet.by_task["depth"].weight, heads.by_task["depth"].weight)


def test_frozen_features_are_the_same_in_chunks():
    torch.manual_seed(0)
    learner = Pooling().double()
    images = batch_of().images.double()
    whole, parts = (frozen_features(learner, images, 1, chunk) for chunk in (64, 3))
    assert (whole.maps - parts.maps).abs().max() < 1e-14 and len(parts.pooled) == 4
    assert not whole.maps.requires_grad


def test_void_pictures_contribute_nothing():
    whole, features = batch_of(), features_of()
    void = replace(
        whole,
        segmentation=torch.where(
            torch.tensor([0, 1, 0, 0]).bool()[:, None, None], IGNORE, whole.segmentation
        ),
        depth=whole.depth * torch.tensor([1, 0, 1, 1])[:, None, None],
        classes=torch.where(torch.tensor([0, 0, 1, 0]).bool(), IGNORE, whole.classes),
    )
    heads = fit_on_features(features, void, TASKS, CLASSES, HeadOptions(steps=5))
    for task, kept in (
        ("segmentation", [0, 2, 3]),
        ("depth", [0, 2, 3]),
        ("classification", [0, 1, 3]),
    ):
        without = LabelledBatch(
            whole.images[kept], whole.segmentation[kept], whole.depth[kept], whole.classes[kept]
        )
        some = DenseFeatures(features.pooled[kept], features.maps[kept])
        alone = fit_on_features(some, without, [task], CLASSES, HeadOptions(steps=5))
        assert torch.equal(alone.by_task[task].weight, heads.by_task[task].weight)
        assert torch.equal(alone.by_task[task].bias, heads.by_task[task].bias)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"segmentation": torch.full((4, 12, 8), IGNORE)}, "all 4 .* void for segmentation"),
        ({"depth": torch.zeros(4, 12, 8)}, "all 4 .* void for depth"),
        ({"depth": None}, "no depth labels"),
        ({"classes": torch.tensor([0, 1, 2, 0])}, "from 0 to 2, but there are 2 classes"),
        ({"classes": torch.tensor([0, -1, 1, 0])}, "from -1 to 1"),
    ],
)
def test_what_cannot_be_fitted_is_refused_in_a_line(changes, message):
    with pytest.raises(UserError, match=message) as caught:
        fit_heads(Pooling(), replace(batch_of(), **changes), TASKS, CLASSES, HeadOptions())
    assert "\n" not in str(caught.value)


def test_unknown_tasks_and_options_are_refused():
    with pytest.raises(UserError, match="unknown feedback task 'normals'"):
        fit_heads(Pooling(), batch_of(), ["normals"], CLASSES, HeadOptions())
    with pytest.raises(UserError, match="no feedback tasks"):
        fit_heads(Pooling(), batch_of(), [], CLASSES, HeadOptions())
    for wrong in ({"layers": 0}, {"steps": 0}, {"lr": 0.0}, {"weight_decay": -1.0}):
        with pytest.raises(UserError, match="layers and steps from 1"):
            HeadOptions(**wrong)


def test_mixed_precision_does_not_reach_the_heads():
    learner = Pooling()
    plain = fit_on_features(
        frozen_features(learner, batch_of().images, 1), batch_of(), TASKS, CLASSES, HeadOptions()
    )
    features = frozen_features(learner, batch_of().images, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = fit_on_features(features, batch_of(), TASKS, CLASSES, HeadOptions())
        sums = loss_sums(mixed, features, batch_of())
        of_mixed = loss_sums(mixed, learner("dense", batch_of().images, 1), batch_of())
    expected = loss_sums(plain, features, batch_of())
    head = plain.by_task["classification"]
    logits = F.linear(features.pooled, head.weight, head.bias)
    by_hand = F.cross_entropy(logits, batch_of().classes, reduction="none")
    assert torch.equal(expected["classification"].total, by_hand)
    for task, head in plain.by_task.items():
        assert torch.equal(head.weight, mixed.by_task[task].weight)
        assert torch.equal(sums[task].total, expected[task].total)
        assert of_mixed[task].total.dtype == torch.float32
