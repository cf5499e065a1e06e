"""Evaluates a frozen backbone: linear heads trained on its features, measured on others.

`probed` follows the paper (section on vision, evaluation); `fitted_loss` measures the feedback's
own loss on held-out pictures, and is cheap enough to be followed during a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.storage.overflow import Overflow
from vfunc.typecheck import typed
from vfunc.vision.data.batches import LabelledBatch, LabelledSet, are_known
from vfunc.vision.evaluation.dense_metrics import depth_scores, segmentation_scores
from vfunc.vision.evaluation.feature_classification import knn_accuracy, linear_accuracy
from vfunc.vision.evaluation.held_features import (
    HeldFeatures,
    chunks,
    fit_on_held,
)
from vfunc.vision.evaluation.probes import Predictor, ProbeOptions, train_probe
from vfunc.vision.feedback.head_losses import loss_sums
from vfunc.vision.feedback.heads import HeadOptions

__all__ = [
    "FrozenEvaluation",
    "ProbeOptions",
    "fitted_loss",
    "probed",
]


@dataclass(frozen=True)
class FrozenEvaluation:
    """Metrics, and numbers of single pictures for paired comparisons.

    Attributes:
        metrics: metrics by name.
        outcomes: numbers by name, in the order of the test pictures. Pictures without a known
            label are left out, the same ones whatever the learner.
    """

    metrics: Mapping[str, float]
    outcomes: Mapping[str, tuple[float, ...]]


@typed
def probed(
    seen: HeldFeatures,
    new: HeldFeatures,
    tasks: Sequence[str],
    classes: Mapping[str, int],
    options: ProbeOptions,
) -> FrozenEvaluation:
    """Train linear heads on the frozen features of some pictures, and measure them on others'.

    Deterministic given the options' seed; global random state is untouched.

    Args:
        seen: features and labels to train on (`held_features`).
        new: those to measure on.
        tasks: tasks, of segmentation, depth and classification.
        classes: number of classes by task.
        options: options of the probes.

    Returns:
        Of segmentation: miou, pixel_accuracy; outcomes image_iou. Of depth: rmse, abs_rel,
        delta_1; outcomes image_rmse. Of classification: linear_accuracy, knn_accuracy; outcomes
        linear_correct.

    Raises:
        UserError: there is nothing to train on or to measure within the depths that count.
    """
    metrics: dict[str, float] = {}
    outcomes: dict[str, tuple[float, ...]] = {}
    measures = {"segmentation": _segmentation, "depth": _depth, "classification": _classification}
    with torch.autocast(seen.device.type, enabled=False):
        for task in tasks:
            found = measures[task](seen, new, classes, options)
            metrics |= found.metrics
            outcomes |= found.outcomes
    return FrozenEvaluation(metrics, outcomes)


@typed
def fitted_loss(
    seen: HeldFeatures,
    new: HeldFeatures,
    weights: Mapping[str, float | int],
    classes: Mapping[str, int],
    options: HeadOptions,
    overflow: Overflow,
) -> FrozenEvaluation:
    """The weighted loss of the feedback on some pictures, its heads fitted on others.

    Args:
        seen: features and labels to fit the heads on (`held_features`).
        new: those to measure on.
        weights: weights of the tasks in the loss.
        classes: number of classes by task.
        options: options of the heads.
        overflow: where what fits the heads is kept.

    Returns:
        `loss` and, by task, `segmentation_loss` and so on: means over all labelled pixels (or
        pictures) of `new`. Outcomes `loss`: what each picture adds to the loss, times the number
        of pictures, so that their mean is `loss`; 0 of a picture without a known label.
    """
    heads = fit_on_held(seen, tuple(weights), classes, options, overflow)
    n = len(new)
    totals: dict[str, list[Tensor]] = {task: [] for task in weights}
    for at in chunks(n):
        for task, one in loss_sums(heads, new.features(at), new.batch(at)).items():
            totals[task].append(one.total.double())
    of_pictures = {task: torch.cat(totals[task]) / new.known(task) for task in weights}
    each = sum(weights[task] * n * x for task, x in of_pictures.items())
    assert isinstance(each, Tensor)
    metrics = {f"{task}_loss": float(x.sum()) for task, x in of_pictures.items()}
    return FrozenEvaluation({"loss": float(each.mean()), **metrics}, {"loss": tuple(each.tolist())})


def _segmentation(
    seen: HeldFeatures, new: HeldFeatures, classes: Mapping[str, int], options: ProbeOptions
) -> FrozenEvaluation:
    count = classes["segmentation"]
    probe = train_probe("segmentation", seen.maps, seen.pictures, count, options, seen.device)
    pairs = _pairs(lambda maps, size: probe(maps, size).argmax(1), new, "segmentation")
    scores = segmentation_scores(pairs, count)
    return FrozenEvaluation(
        {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy},
        {"image_iou": scores.image_iou},
    )


def _depth(
    seen: HeldFeatures, new: HeldFeatures, classes: Mapping[str, int], options: ProbeOptions
) -> FrozenEvaluation:
    within = _Within(seen.pictures, options.farthest)
    if not any(bool((within.labels("depth", at) > 0).any()) for at in chunks(len(seen))):
        raise UserError(
            f"all {len(seen)} labelled pictures are void for depth below {options.farthest} m, and "
            "no head can be fitted to them: take more of them, or other ones"
        )
    probe = train_probe("depth", seen.maps, within, 1, options, seen.device)
    pairs = _pairs(probe, new, "depth")
    scores = depth_scores(pairs, options.nearest, options.farthest, options.eigen_crop)
    return FrozenEvaluation(
        {"rmse": scores.rmse, "abs_rel": scores.abs_rel, "delta_1": scores.delta_1},
        {"image_rmse": scores.image_rmse},
    )


@dataclass(frozen=True)
class _Within:
    """Pictures whose depth is unknown from a distance on."""

    pictures: LabelledSet
    farthest: float

    def __len__(self) -> int:
        return len(self.pictures)

    def rows(self, at: Sequence[int]) -> LabelledBatch:
        batch = self.pictures.rows(at)
        return replace(batch, depth=self.labels("depth", at))

    def labels(self, task: str, at: Sequence[int]) -> Tensor:
        labels = self.pictures.labels(task, at)
        return labels * (labels < self.farthest) if task == "depth" else labels


def _classification(
    seen: HeldFeatures, new: HeldFeatures, classes: Mapping[str, int], options: ProbeOptions
) -> FrozenEvaluation:
    given: list[Tensor] = []
    for held in (seen, new):
        labels = held.labels("classification", range(len(held)))
        valid = are_known(labels, "classification")
        given += [held.pooled[valid], labels[valid]]
    train, train_labels, test, test_labels = given
    linear = linear_accuracy(train, train_labels, test, test_labels)
    knn = knn_accuracy(train, train_labels, test, test_labels)
    return FrozenEvaluation(
        {"linear_accuracy": linear.accuracy, "knn_accuracy": knn.accuracy},
        {"linear_correct": linear.correct},
    )


def _pairs(predict: Predictor, held: HeldFeatures, task: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of predictions and labels, some pictures at a time."""
    for at in chunks(len(held)):
        labels = held.labels(task, at)
        yield predict(held.features(at).maps, (labels.shape[1], labels.shape[2])), labels
