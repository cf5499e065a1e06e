"""Evaluates a frozen backbone: linear heads trained on its features, measured on others.

`evaluate_frozen` follows the paper (section on vision, evaluation); `evaluate_quickly` measures
the feedback's own loss on held-out pictures, and is cheap enough to be followed during a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor, nn

from vfunc.typecheck import typed
from vfunc.vision.data.batches import LabelledBatch
from vfunc.vision.encoder.encoder import DenseFeatures
from vfunc.vision.evaluation.dense_metrics import depth_scores, segmentation_scores
from vfunc.vision.evaluation.feature_classification import knn_accuracy, linear_accuracy
from vfunc.vision.evaluation.probes import Predictor, ProbeOptions, train_probe
from vfunc.vision.feedback.head_losses import known, loss_sums, require_labels
from vfunc.vision.feedback.heads import HeadOptions, fit_on_features, frozen_features

CHUNK = 64
"""Number of pictures at a time."""

__all__ = ["FrozenEvaluation", "ProbeOptions", "evaluate_frozen", "evaluate_quickly"]


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
def evaluate_frozen(
    learner: nn.Module,
    fit: LabelledBatch,
    test: LabelledBatch,
    tasks: Sequence[str],
    classes: Mapping[str, int],
    options: ProbeOptions,
) -> FrozenEvaluation:
    """Train linear heads on frozen features of `fit`, and measure them on `test`.

    Features are computed once; the learner is left as it was. Deterministic given the options'
    seed; global random state is untouched.

    Args:
        learner: `learner("dense", images, layers)` gives `pooled` and `maps`.
        fit: labelled pictures to train on.
        test: labelled pictures to measure on.
        tasks: tasks, of segmentation, depth and classification.
        classes: number of classes by task.
        options: options of the probes.

    Returns:
        Of segmentation: miou, pixel_accuracy; outcomes image_iou. Of depth: rmse, abs_rel,
        delta_1; outcomes image_rmse. Of classification: linear_accuracy, knn_accuracy; outcomes
        linear_correct.

    Raises:
        UserError: labels of a task are missing, all void, or beyond the number of classes, among
            the pictures of either.
    """
    require_labels(fit, tasks, classes)
    require_labels(test, tasks, classes)
    seen = frozen_features(learner, fit.images, options.layers, CHUNK)
    new = frozen_features(learner, test.images, options.layers, CHUNK)
    metrics: dict[str, float] = {}
    outcomes: dict[str, tuple[float, ...]] = {}
    measures = {"segmentation": _segmentation, "depth": _depth, "classification": _classification}
    with torch.autocast(seen.maps.device.type, enabled=False):
        for task in tasks:
            found = measures[task](seen, fit, new, test, classes, options)
            metrics |= found.metrics
            outcomes |= found.outcomes
    return FrozenEvaluation(metrics, outcomes)


@typed
def evaluate_quickly(
    learner: nn.Module,
    fit: LabelledBatch,
    test: LabelledBatch,
    weights: Mapping[str, float | int],
    classes: Mapping[str, int],
    options: HeadOptions,
) -> FrozenEvaluation:
    """The weighted loss of the feedback on `test`, its heads fitted on `fit`.

    Args:
        learner: see `evaluate_frozen`.
        fit: labelled pictures to fit the heads on.
        test: labelled pictures to measure on.
        weights: weights of the tasks in the loss.
        classes: number of classes by task.
        options: options of the heads.

    Returns:
        `loss` and, by task, `segmentation_loss` and so on: means over all labelled pixels (or
        pictures) of `test`. Outcomes `loss`: what each picture adds to the loss, times the number
        of pictures, so that their mean is `loss`; 0 of a picture without a known label.

    Raises:
        UserError: see `evaluate_frozen`.
    """
    tasks = tuple(weights)
    require_labels(fit, tasks, classes)
    require_labels(test, tasks, classes)
    seen = frozen_features(learner, fit.images, options.layers, CHUNK)
    heads = fit_on_features(seen, fit, tasks, classes, options)
    new = frozen_features(learner, test.images, options.layers, CHUNK)
    n = len(test)
    totals: dict[str, list[Tensor]] = {task: [] for task in tasks}
    for at in torch.arange(n).split(CHUNK):
        part = slice(int(at[0]), int(at[-1]) + 1)
        sums = loss_sums(heads, DenseFeatures(*(x[part] for x in new)), _rows(test, part))
        for task, one in sums.items():
            totals[task].append(one.total.double())
    counts = {task: int(known(test, task).sum()) for task in tasks}
    of_pictures = {task: torch.cat(totals[task]) / counts[task] for task in tasks}
    each = sum(weights[task] * n * x for task, x in of_pictures.items())
    assert isinstance(each, Tensor)
    metrics = {f"{task}_loss": float(x.sum()) for task, x in of_pictures.items()}
    return FrozenEvaluation({"loss": float(each.mean()), **metrics}, {"loss": tuple(each.tolist())})


def _segmentation(
    seen: DenseFeatures,
    fit: LabelledBatch,
    new: DenseFeatures,
    test: LabelledBatch,
    classes: Mapping[str, int],
    options: ProbeOptions,
) -> FrozenEvaluation:
    probe = train_probe("segmentation", seen.maps, fit, classes["segmentation"], options)
    assert test.segmentation is not None
    pairs = _pairs(lambda maps, size: probe(maps, size).argmax(1), new.maps, test.segmentation)
    scores = segmentation_scores(pairs, classes["segmentation"])
    return FrozenEvaluation(
        {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy},
        {"image_iou": scores.image_iou},
    )


def _depth(
    seen: DenseFeatures,
    fit: LabelledBatch,
    new: DenseFeatures,
    test: LabelledBatch,
    classes: Mapping[str, int],
    options: ProbeOptions,
) -> FrozenEvaluation:
    assert fit.depth is not None and test.depth is not None
    within = replace(fit, depth=fit.depth * (fit.depth < options.farthest))
    require_labels(within, ["depth"], classes)
    probe = train_probe("depth", seen.maps, within, 1, options)
    pairs = _pairs(probe, new.maps, test.depth)
    scores = depth_scores(pairs, options.nearest, options.farthest, options.eigen_crop)
    return FrozenEvaluation(
        {"rmse": scores.rmse, "abs_rel": scores.abs_rel, "delta_1": scores.delta_1},
        {"image_rmse": scores.image_rmse},
    )


def _classification(
    seen: DenseFeatures,
    fit: LabelledBatch,
    new: DenseFeatures,
    test: LabelledBatch,
    classes: Mapping[str, int],
    options: ProbeOptions,
) -> FrozenEvaluation:
    there, here = known(fit, "classification"), known(test, "classification")
    assert fit.classes is not None and test.classes is not None
    given = seen.pooled[there], fit.classes[there], new.pooled[here], test.classes[here]
    linear, knn = linear_accuracy(*given), knn_accuracy(*given)
    return FrozenEvaluation(
        {"linear_accuracy": linear.accuracy, "knn_accuracy": knn.accuracy},
        {"linear_correct": linear.correct},
    )


def _pairs(predict: Predictor, maps: Tensor, labels: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of predictions and labels, some pictures at a time."""
    for part, label in zip(maps.split(CHUNK), labels.split(CHUNK), strict=True):
        yield predict(part, (label.shape[1], label.shape[2])), label


def _rows(batch: LabelledBatch, rows: slice) -> LabelledBatch:
    values = {f.name: getattr(batch, f.name) for f in fields(batch)}
    return replace(batch, **{name: x[rows] for name, x in values.items() if x is not None})
