"""Dense metrics and linear probes against slow literal readings of their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, jaccard_score

from vfunc.errors import UserError
from vfunc.vision.evaluation.dense_metrics import depth_scores, eigen_mask, segmentation_scores
from vfunc.vision.evaluation.feature_classification import knn_accuracy, linear_accuracy

IGNORE = -100


def literal_segmentation(pairs, classes):
    """mIoU, pixel accuracy, IoU by class, and by picture."""
    pixels = [
        (picture, int(p), int(c))
        for picture, (guess, label) in enumerate(
            (g, y) for guesses, labels in pairs for g, y in zip(guesses, labels, strict=True)
        )
        for p, c in zip(guess.flatten(), label.flatten(), strict=True)
        if int(c) != IGNORE
    ]

    def iou(c, rows):
        both = sum(p == c and y == c for _, p, y in rows)
        either = sum(p == c or y == c for _, p, y in rows)
        return both / either if either else None

    by_class = [iou(c, pixels) for c in range(classes)]
    there = [x for x in by_class if x is not None]
    images = []
    for picture in sorted({row[0] for row in pixels}):
        rows = [row for row in pixels if row[0] == picture]
        present = sorted({y for _, _, y in rows})
        images.append(sum(iou(c, rows) for c in present) / len(present))
    accuracy = sum(p == y for _, p, y in pixels) / len(pixels)
    return sum(there) / len(there), accuracy, by_class, images


def literal_depth(pairs, nearest, farthest, inside):
    """RMSE, AbsRel, delta_1 over pixels, and RMSE by picture."""
    errors, images = [], []
    for guesses, depths in pairs:
        for guess, depth in zip(guesses, depths, strict=True):
            mine = []
            for i in range(depth.shape[0]):
                for j in range(depth.shape[1]):
                    d = float(depth[i, j])
                    if nearest < d < farthest and inside(i, j):
                        mine.append((min(max(float(guess[i, j]), nearest), farthest), d))
            errors += mine
            if mine:
                images.append(math.sqrt(sum((p - d) ** 2 for p, d in mine) / len(mine)))
    n = len(errors)
    return (
        math.sqrt(sum((p - d) ** 2 for p, d in errors) / n),
        sum(abs(p - d) / d for p, d in errors) / n,
        sum(max(p / d, d / p) < 1.25 for p, d in errors) / n,
        images,
    )


@given(st.integers(0, 10**6))
def test_segmentation_is_its_literal_definition(seed):
    g = torch.Generator().manual_seed(seed)
    pairs = []
    for size in (3, 2):
        # class 4 is neither labelled nor predicted, class 3 is predicted alone
        labels = torch.randint(0, 3, (size, 5, 4), generator=g)
        labels[torch.rand(labels.shape, generator=g) < 0.3] = IGNORE
        pairs.append((torch.randint(0, 4, labels.shape, generator=g), labels))
    pairs[0][1][1] = IGNORE
    found = segmentation_scores(pairs, 5)
    miou, accuracy, by_class, images = literal_segmentation(pairs, 5)
    assert found.miou == pytest.approx(miou, rel=1e-6)
    assert found.pixel_accuracy == pytest.approx(accuracy)
    assert found.class_iou == pytest.approx(tuple(by_class))
    assert found.image_iou == pytest.approx(tuple(images)) and len(images) == 4


def test_segmentation_by_hand():
    labels = torch.tensor([[[0, 0, 1, IGNORE]]])
    guess = torch.tensor([[[0, 2, 1, 1]]])
    found = segmentation_scores([(guess, labels)], 4)
    # 0: 1 of 2; 1: 1 of 1, the void pixel does not count; 2: predicted, nowhere labelled; 3: no
    assert found.class_iou == (0.5, 1.0, 0.0, None)
    assert found.miou == pytest.approx(0.5)
    assert found.pixel_accuracy == pytest.approx(2 / 3)
    assert found.image_iou == (0.75,)


def test_segmentation_of_one_pixel_and_of_none():
    one = torch.full((2, 2, 2), IGNORE)
    one[1, 0, 1] = 1
    found = segmentation_scores([(torch.ones(2, 2, 2, dtype=torch.long), one)], 2)
    assert (found.miou, found.pixel_accuracy, found.image_iou) == (1.0, 1.0, (1.0,))
    assert found.class_iou == (None, 1.0)
    void = torch.full((1, 2, 2), IGNORE)
    for pairs in ([], [(torch.zeros(1, 2, 2, dtype=torch.long), void)]):
        with pytest.raises(UserError, match="no labelled pixel"):
            segmentation_scores(pairs, 2)
    # another void value
    other = torch.tensor([[[255, 0]]])
    assert segmentation_scores([(torch.tensor([[[1, 0]]]), other)], 2, ignore=255).miou == 1.0


@pytest.mark.parametrize("ignore", [IGNORE, 255, 0])
def test_segmentation_is_that_of_scikit_learn(ignore):
    """Many classes, some never seen, and a void value that may be the number of a class."""
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 30, (4, 40, 50), generator=g)
    other = torch.randint(0, 33, labels.shape, generator=g)
    guess = torch.where(torch.rand(labels.shape, generator=g) < 0.6, labels, other)
    labels[torch.rand(labels.shape, generator=g) < 0.2] = ignore
    found = segmentation_scores([(guess[:3], labels[:3]), (guess[3:], labels[3:])], 40, ignore)
    there = labels != ignore
    y, x = labels[there].numpy(), guess[there].numpy()
    iou = jaccard_score(y, x, labels=range(40), average=None, zero_division=0)
    seen = [c for c in range(40) if c in y or c in x]
    assert max(seen) < 33 and len(seen) >= 32
    assert [c for c, score in enumerate(found.class_iou) if score is not None] == seen
    assert [found.class_iou[c] for c in seen] == pytest.approx(iou[seen])
    counted = [c for c in seen if c != ignore]
    assert found.miou == pytest.approx(iou[counted].mean(), rel=1e-6)
    assert found.pixel_accuracy == pytest.approx(accuracy_score(y, x))


@pytest.mark.parametrize("crop", [False, True])
@given(seed=st.integers(0, 10**6))
def test_depth_is_its_literal_definition(seed, crop):
    g = torch.Generator().manual_seed(seed)
    pairs = []
    for size in (3, 2):
        depth = 12 * torch.rand(size, 24, 32, generator=g, dtype=torch.float64)
        depth[torch.rand(depth.shape, generator=g) < 0.3] = 0
        guess = depth * (0.6 + torch.rand(depth.shape, generator=g)) + 0.01
        pairs.append((guess, depth))
    pairs[0][1][1] = 0
    pairs[0][0][0, 12, 16] = -3.0
    # 480 x 640 over 20: rows 45 / 20 = 2.25 to 471 / 20 = 23.55, columns 2.05 to 30.05
    found = depth_scores(pairs, eigen_crop=crop)

    def inside(i, j):
        return not crop or (2 <= i < 24 and 2 <= j < 30)

    rmse, abs_rel, delta, images = literal_depth(pairs, 1e-3, 10.0, inside)
    assert found.rmse == pytest.approx(rmse) and found.abs_rel == pytest.approx(abs_rel)
    assert found.delta_1 == pytest.approx(delta)
    assert found.image_rmse == pytest.approx(tuple(images)) and len(images) == 4


def test_depth_by_hand():
    depth = torch.tensor([[[2.0, 0.0, 10.0, 4.0]]])
    guess = torch.tensor([[[3.0, 9.0, 1.0, 4.0]]])
    found = depth_scores([(guess, depth)])
    assert found.rmse == pytest.approx(math.sqrt(0.5)) and found.abs_rel == pytest.approx(0.25)
    assert found.delta_1 == 0.5 and found.image_rmse == pytest.approx((math.sqrt(0.5),))
    # beyond the range: clamped where predicted, left out where measured; 1.25 itself is not below
    far = depth_scores([(torch.tensor([[[50.0, 5.0]]]), torch.tensor([[[8.0, 4.0]]]))])
    assert far.rmse == pytest.approx(math.sqrt((4 + 1) / 2)) and far.delta_1 == 0
    one = depth_scores([(torch.tensor([[[1.0]]]), torch.tensor([[[1.0]]]))], farthest=3.0)
    assert (one.rmse, one.abs_rel, one.delta_1, one.image_rmse) == (0, 0, 1, (0,))


def test_depth_that_cannot_be_measured_is_refused():
    void = torch.zeros(1, 2, 2)
    for pairs in ([], [(void + 1, void)], [(void + 1, void + 20)]):
        with pytest.raises(UserError, match="no pixel of the test pictures has a depth"):
            depth_scores(pairs)
    with pytest.raises(UserError, match="give 0 < nearest < farthest"):
        depth_scores([(void, void)], nearest=2.0, farthest=1.0)


def test_eigen_crop_of_nyu():
    mask = eigen_mask(480, 640)
    assert int(mask.sum()) == (471 - 45) * (601 - 41)
    assert mask[45, 41] and mask[470, 600]
    assert not (mask[44].any() or mask[471].any() or mask[:, 40].any() or mask[:, 601].any())
    assert int(eigen_mask(240, 320).sum()) == (236 - 22) * (300 - 20)


def points(seed, n, d=6, classes=3, spread=1.0):
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % classes
    centres = 2 * torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    return centres[labels] + spread * torch.randn(n, d, generator=g), labels


@given(st.integers(0, 10**6))
def test_neighbours_vote_as_dino_has_it(seed):
    (train, y), (test, z) = points(seed, 40, spread=3.0), points(seed + 1, 15, spread=3.0)
    found = knn_accuracy(train, y, test, z, neighbours=7, temperature=0.2)
    correct = []
    for x, c in zip(test.double(), z, strict=True):
        cosines = torch.stack([x @ t / (x.norm() * t.norm()) for t in train.double()])
        votes = [0.0] * 3
        for i in cosines.argsort(descending=True)[:7].tolist():
            votes[int(y[i])] += math.exp(float(cosines[i]) / 0.2)
        correct.append(float(votes.index(max(votes)) == int(c)))
    assert found.correct == tuple(correct)
    assert found.accuracy == pytest.approx(sum(correct) / 15)


def test_neighbours_are_weighted_and_fewer_where_there_are_fewer():
    train = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1])
    test, wanted = torch.tensor([[1.0, 0.1]]), torch.tensor([0])
    assert knn_accuracy(train, labels, test, wanted).accuracy == 1.0  # nearness outweighs number
    assert knn_accuracy(train, labels, test, wanted, temperature=1e3).accuracy == 0.0


def test_a_linear_probe_separates_what_is_separable_in_any_units():
    (train, y), (test, z) = points(0, 90, spread=0.3), points(1, 30, spread=0.3)
    found = linear_accuracy(train, y, test, z)
    assert found.accuracy == 1.0 and found.correct == (1.0,) * 30
    (train, y), (test, z) = points(0, 90, spread=2.5), points(1, 60, spread=2.5)
    units = torch.tensor([1e3, 1e-3, 1.0, 10.0, 0.1, 5.0])
    one, other = (linear_accuracy(train * u, y, test * u, z) for u in (torch.ones(6), units))
    assert one.correct == other.correct and 0.4 < one.accuracy < 1
    assert one.accuracy == pytest.approx(sum(one.correct) / 60)
    # a class that was never seen is never right
    unseen = linear_accuracy(train[y < 2], y[y < 2], test, z)
    assert all(c == 0 for c, label in zip(unseen.correct, z.tolist(), strict=True) if label == 2)


def test_regularisation_is_the_penalty_on_the_sum_of_losses():
    """The probe's stationary point, by hand: sum of losses + (lambda / 2) |W|^2."""
    (train, y), (test, z) = points(0, 60, spread=2.5), points(1, 60, spread=2.5)
    x = (train - train.mean(0)) / train.std(0, correction=0)
    t = (test - train.mean(0)) / train.std(0, correction=0)
    w, b = torch.zeros(3, 6, requires_grad=True), torch.zeros(3, requires_grad=True)
    search = torch.optim.LBFGS([w, b], max_iter=200, line_search_fn="strong_wolfe")

    def loss():
        search.zero_grad()
        cost = torch.nn.functional.cross_entropy(x @ w.T + b, y, reduction="sum")
        cost = cost + 20.0 / 2 * (w**2).sum()
        cost.backward()
        return cost

    search.step(loss)
    expected = ((t @ w.T + b).argmax(1) == z).float().tolist()
    assert linear_accuracy(train, y, test, z, regularisation=20.0).correct == tuple(expected)


@pytest.mark.parametrize("measure", [linear_accuracy, knn_accuracy])
def test_probes_refuse_what_has_no_classes(measure):
    x, y = points(0, 12)
    with pytest.raises(UserError, match=r"of 1 class\(es\)"):
        measure(x, torch.zeros_like(y), x, y)
    with pytest.raises(UserError, match="no test picture"):
        measure(x, y, x[:0], y[:0])
