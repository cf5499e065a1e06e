"""Dense prediction: mean intersection over union, and depth errors under Eigen's protocol."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.batches import IGNORE

EIGEN_SIZE = (480, 640)
EIGEN_ROWS, EIGEN_COLUMNS = (45, 471), (41, 601)
"""Eigen et al. 2014's crop of a NYUv2 picture: first row (column), and the one after the last."""


@dataclass(frozen=True)
class SegmentationScores:
    """How well classes of pixels are predicted; shares from 0 to 1.

    Attributes:
        miou: mean over classes of TP / (TP + FP + FN), each counted over all pictures. A class
            that is neither labelled nor predicted anywhere is left out; one that is predicted
            but nowhere labelled counts as 0 (as torchmetrics and mmsegmentation have it).
        pixel_accuracy: of all labelled pixels.
        class_iou: of each class, None where it is left out.
        image_iou: of each picture that has a labelled pixel, in their order: the mean over the
            classes labelled in it. For paired comparisons; its mean is not `miou`.
    """

    miou: float
    pixel_accuracy: float
    class_iou: tuple[float | None, ...]
    image_iou: tuple[float, ...]


@dataclass(frozen=True)
class DepthScores:
    """How well depth is predicted, over all valid pixels of all pictures.

    Attributes:
        rmse: root of the mean squared error, metres.
        abs_rel: mean of |prediction - depth| / depth.
        delta_1: share of pixels with max(prediction / depth, depth / prediction) < 1.25.
        image_rmse: of each picture that has a valid pixel, in their order. Their mean is what
            toolboxes report that average over pictures; it is not `rmse`.
    """

    rmse: float
    abs_rel: float
    delta_1: float
    image_rmse: tuple[float, ...]


@typed
def segmentation_scores(
    pairs: Iterable[tuple[Int[Tensor, "b h w"], Int[Tensor, "b h w"]]],
    classes: int,
    ignore: int = IGNORE,
) -> SegmentationScores:
    """Compare predicted with labelled classes.

    Args:
        pairs: predictions, each from 0 to classes - 1, and labels, batch by batch.
        classes: how many.
        ignore: the label of pixels that do not count, whatever is predicted there.

    Raises:
        UserError: no pixel is labelled.
    """
    total: Tensor | None = None
    images: list[float] = []
    for predicted, labels in pairs:
        counts = _confusions(predicted, labels, classes, ignore)
        images += _image_iou(counts)
        total = counts.sum(0) if total is None else total + counts.sum(0)
    if not images or total is None:
        raise UserError("no labelled pixel in the test pictures: mIoU is not defined")
    confusion = total.double()
    hits, either = confusion.diagonal(), confusion.sum(0) + confusion.sum(1)
    union = (either - hits).tolist()
    return SegmentationScores(
        _mean_iou(total, ignore),
        float(hits.sum() / confusion.sum()),
        tuple(hit / n if n else None for hit, n in zip(hits.tolist(), union, strict=True)),
        tuple(images),
    )


@typed
def depth_scores(
    pairs: Iterable[tuple[Float[Tensor, "b h w"], Float[Tensor, "b h w"]]],
    nearest: float = 1e-3,
    farthest: float = 10.0,
    eigen_crop: bool = False,
) -> DepthScores:
    """Compare predicted with measured depth, in metres; predictions are not scaled by a median.

    Predictions are clamped to the range. Pixels are valid whose depth lies strictly within the
    range, and within the crop.

    Args:
        pairs: predictions, and depths with 0 where unknown, batch by batch.
        nearest: the range's lower end.
        farthest: its upper end.
        eigen_crop: whether only `eigen_mask` counts, as is the custom for NYUv2.

    Raises:
        UserError: no pixel is valid, or a range that is none.
    """
    if not 0 < nearest < farthest:
        raise UserError(
            f"a depth range from {nearest} to {farthest} m: give 0 < nearest < farthest"
        )
    # per picture: valid pixels; sums of squares, relative errors, and of those within 1.25
    rows: list[Tensor] = []
    for predicted, depth in pairs:
        valid = (depth > nearest) & (depth < farthest)
        if eigen_crop:
            valid &= eigen_mask(depth.shape[1], depth.shape[2]).to(depth.device)
        known = torch.where(valid, depth, 1.0).double()
        guess = predicted.double().clamp(nearest, farthest)
        error = (guess - known).abs()
        near = torch.maximum(guess / known, known / guess) < 1.25
        terms = (torch.ones_like(error), error**2, error / known, near.double())
        rows.append(torch.stack([(term * valid).sum((1, 2)) for term in terms], 1).cpu())
    table = torch.cat(rows) if rows else torch.zeros(0, 4)
    table = table[table[:, 0] > 0]
    if not len(table):
        raise UserError(
            f"no pixel of the test pictures has a depth between {nearest} and {farthest} m"
        )
    count, squares, relative, near = table.sum(0).tolist()
    image_rmse = (table[:, 1] / table[:, 0]).sqrt().tolist()
    return DepthScores((squares / count) ** 0.5, relative / count, near / count, tuple(image_rmse))


@typed
def eigen_mask(height: int, width: int) -> Bool[Tensor, "h w"]:
    """Where Eigen's crop lets pixels count: rows 45 to 470, columns 41 to 600 of 480 x 640.

    For other sizes the crop's edges are scaled and rounded.
    """
    mask = torch.zeros(height, width, dtype=torch.bool)
    rows = (round(edge * height / EIGEN_SIZE[0]) for edge in EIGEN_ROWS)
    columns = (round(edge * width / EIGEN_SIZE[1]) for edge in EIGEN_COLUMNS)
    mask[slice(*rows), slice(*columns)] = True
    return mask


def _confusions(
    predicted: Int[Tensor, "b h w"], labels: Int[Tensor, "b h w"], classes: int, ignore: int
) -> Int[Tensor, "b classes classes"]:
    """Pixels of each picture by class: labelled (rows) against predicted (columns)."""
    b = len(labels)
    valid = labels != ignore
    picture = torch.arange(b, device=labels.device).view(b, 1, 1)
    index = ((picture * classes + labels) * classes + predicted)[valid]
    return torch.bincount(index, minlength=b * classes**2).view(b, classes, classes)


def _mean_iou(confusion: Int[Tensor, "classes classes"], ignore: int) -> float:
    """The mean over the classes that are labelled or predicted anywhere.

    In float32, bit for bit what torchmetrics' `MulticlassJaccardIndex` gives: earlier results were
    computed with it.
    """
    counts = confusion.float()
    hits, labelled, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    union = labelled + predicted - hits
    counted = (labelled + predicted > 0).float()
    if 0 <= ignore < len(counted):
        counted[ignore] = 0
    iou = hits / torch.where(union > 0, union, 1.0)
    return float((counted * iou / counted.sum()).sum())


def _image_iou(confusions: Int[Tensor, "b classes classes"]) -> list[float]:
    """Picture by picture, the mean IoU over the classes labelled there."""
    counts = confusions.double()
    labelled, hits = counts.sum(2), counts.diagonal(dim1=1, dim2=2)
    union = labelled + counts.sum(1) - hits
    present = labelled > 0
    iou = torch.where(present, hits / union.clamp(min=1), 0.0).sum(1)
    there = present.any(1)
    return (iou[there] / present[there].sum(1)).tolist()
