"""Losses that heads are fitted by: convex in z = weight x + bias, at token resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vfunc.trees import Scalar
from vfunc.typecheck import typed
from vfunc.vision.data.batches import LabelledBatch, labels_of
from vfunc.vision.encoder.dense_features import DenseFeatures
from vfunc.vision.feedback.head_losses import known, metres

UNIT = 0.541324854612918
"""Inverse of softplus at 1: log(e - 1)."""

CELLS = 4
"""Number of cells along a token's side, for depth."""


Losses = Callable[[Tensor, tuple[Tensor, ...], float], Scalar]


@dataclass(frozen=True)
class HeadFit:
    """The problem of fitting a head, or the part of it that some of its pictures have.

    Attributes:
        x: features, a row a token (a picture, for classification).
        labels: what enters of the labels: their counts, or their means and numbers, or they
            themselves; a row for each of `x`.
        labelled: which pictures have a label at all: the features are of these.
        losses: (z, labels, scale) -> the loss of z, which has a row for each of x, times `total`.
        total: number of labels, in units of `scale`.
        counts: labels of each class; None of depth.
        scale: scale of the `Head`.
    """

    x: Float[Tensor, "n d"]
    labels: tuple[Tensor, ...]
    labelled: Bool[Tensor, " b"]
    losses: Losses
    total: Scalar
    counts: Float[Tensor, " k"] | None = None
    scale: float = 1.0

    @property
    def start(self) -> Float[Tensor, " k"]:
        """The initial bias: the best constant."""
        return start_of(self.counts, self.x)

    def loss(self, z: Tensor) -> Scalar:
        """The loss of z, a mean over the labels."""
        return self.losses(z, self.labels, self.scale) / self.total


@typed
def segmentation_fit(
    features: DenseFeatures, batch: LabelledBatch, classes: int, scale: float | None = None
) -> HeadFit:
    """Cross-entropy of all known pixels, the logits constant over a token.

    The labels enter by the histogram of the classes in each token alone. The bias
    starts at the log-frequencies, the best constant.
    """
    x, labels, valid, labelled = _labelled(features, batch, "segmentation")
    n, _, gh, gw = x.shape
    picture = torch.arange(n, device=x.device).view(n, 1, 1)
    token = gh * gw * picture + _cells(labels.shape[1:], gh, gw, x.device)
    index = (token * classes + labels)[valid]
    counts = torch.bincount(index, minlength=n * gh * gw * classes).view(-1, classes).to(x.dtype)
    total = counts.sum()
    return HeadFit(rows_of(x), (counts,), labelled, _cross_entropies, total, counts.sum(0))


def _cross_entropies(z: Tensor, labels: tuple[Tensor, ...], scale: float) -> Scalar:
    (counts,) = labels
    return -(counts * F.log_softmax(z, -1)).sum()


@typed
def depth_fit(
    features: DenseFeatures, batch: LabelledBatch, classes: int, scale: float | None = None
) -> HeadFit:
    """Absolute error of depth, the prediction constant over a token.

    The mean of the known depths in each of `CELLS` x `CELLS` cells of a token stands for them,
    weighted by their number. In units of the median depth, where the prediction starts: the
    fit does not depend on the unit of length.

    Args:
        features: features of the batch's images.
        batch: the labels.
        classes: 1.
        scale: the median depth; None is the batch's own.
    """
    x, labels, valid, labelled = _labelled(features, batch, "depth")
    gh, gw = x.shape[-2:]
    scale = float(labels[valid].median()) if scale is None else scale
    labels, weight = labels.to(x.dtype), valid.to(x.dtype)
    down = _pooling(labels.shape[1], CELLS * gh, x)
    across = _pooling(labels.shape[2], CELLS * gw, x)
    count = down @ weight @ across.mT
    mean = down @ (labels * weight) @ across.mT / count.clamp(min=1)
    count, mean = (
        part.view(-1, gh, CELLS, gw, CELLS).transpose(2, 3).reshape(-1, CELLS**2)
        for part in (count, mean)
    )
    total = count.sum() * scale
    return HeadFit(rows_of(x), (count, mean), labelled, _absolute_errors, total, None, scale)


def _absolute_errors(z: Tensor, labels: tuple[Tensor, ...], scale: float) -> Scalar:
    count, mean = labels
    return ((metres(z, scale) - mean).abs() * count).sum()


@typed
def classification_fit(
    features: DenseFeatures, batch: LabelledBatch, classes: int, scale: float | None = None
) -> HeadFit:
    """Cross-entropy of the pictures' classes, from their log-frequencies."""
    x, labels, _, labelled = _labelled(features, batch, "classification")
    labels = labels.long()
    counts = torch.bincount(labels, minlength=classes).to(x.dtype)
    return HeadFit(x, (labels,), labelled, _of_classes, x.new_tensor(float(len(labels))), counts)


def _of_classes(z: Tensor, labels: tuple[Tensor, ...], scale: float) -> Scalar:
    return F.cross_entropy(z, labels[0], reduction="sum")


FITS = {
    "segmentation": segmentation_fit,
    "depth": depth_fit,
    "classification": classification_fit,
}


def features_for(features: DenseFeatures, task: str) -> Tensor:
    """What of the features a task's head reads: of each picture, or of its patches."""
    return features.pooled if task == "classification" else features.maps


def rows_of(x: Tensor) -> Float[Tensor, "n d"]:
    """Features of pictures as they are; maps as a row a patch."""
    return x if x.ndim == 2 else x.permute(0, 2, 3, 1).flatten(0, 2)


def start_of(counts: Tensor | None, like: Tensor) -> Float[Tensor, " k"]:
    """The best constant output of a head: its classes' log-frequencies, or the median depth."""
    return like.new_full((1,), UNIT) if counts is None else log_frequencies(counts)


def _labelled(
    features: DenseFeatures, batch: LabelledBatch, task: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, labels and their validity, of the pictures that are not all void, and which."""
    valid = known(batch, task)
    labelled = valid.reshape(len(batch), -1).any(1)
    x = features_for(features, task)[labelled].detach()
    return x, labels_of(batch, task)[labelled], valid[labelled], labelled


@typed
def log_frequencies(counts: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """The best constant logits, with one count added to each class: one may be missing."""
    return ((counts + 1) / (counts + 1).sum()).log()


def _cells(size: Sequence[int], rows: int, columns: int, device: torch.device) -> Tensor:
    """The token, by its place in a row-major grid, that each pixel (h, w) lies in."""
    down = torch.arange(size[0], device=device) * rows // size[0]
    across = torch.arange(size[1], device=device) * columns // size[1]
    return down[:, None] * columns + across


def _pooling(pixels: int, cells: int, like: Tensor) -> Tensor:
    """The (cells, pixels) matrix that sums what lies in each cell."""
    cell = torch.arange(pixels, device=like.device) * cells // pixels
    return (torch.arange(cells, device=like.device)[:, None] == cell).to(like.dtype)
