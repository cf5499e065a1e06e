"""Losses that heads are fitted by: convex in z = weight x + bias, at token resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from vfunc.trees import Scalar
from vfunc.typecheck import typed
from vfunc.vision.data.batches import LabelledBatch
from vfunc.vision.encoder.dense_features import DenseFeatures
from vfunc.vision.feedback.head_losses import known, labels_of, metres

UNIT = 0.541324854612918
"""Inverse of softplus at 1: log(e - 1)."""

CELLS = 4
"""Number of cells along a token's side, for depth."""


@dataclass(frozen=True)
class HeadFit:
    """The problem of fitting a head.

    Attributes:
        x: features, a row a token (a picture, for classification).
        start: initial bias.
        loss: loss of z, which has a row for each of x.
        scale: scale of the `Head`.
    """

    x: Float[Tensor, "n d"]
    start: Float[Tensor, " k"]
    loss: Callable[[Tensor], Scalar]
    scale: float = 1.0


@typed
def segmentation_fit(features: DenseFeatures, batch: LabelledBatch, classes: int) -> HeadFit:
    """Cross-entropy of all known pixels, the logits constant over a token.

    The labels enter by the histogram of the classes in each token alone. The bias
    starts at the log-frequencies, the best constant.
    """
    x, labels, valid = _labelled(features.maps, batch, "segmentation")
    n, _, gh, gw = x.shape
    picture = torch.arange(n, device=x.device).view(n, 1, 1)
    token = gh * gw * picture + _cells(labels.shape[1:], gh, gw, x.device)
    index = (token * classes + labels)[valid]
    counts = torch.bincount(index, minlength=n * gh * gw * classes).view(-1, classes).to(x.dtype)
    total = counts.sum()

    def loss(z: Tensor) -> Scalar:
        return -(counts * F.log_softmax(z, -1)).sum() / total

    return HeadFit(_rows(x), log_frequencies(counts.sum(0)), loss)


@typed
def depth_fit(features: DenseFeatures, batch: LabelledBatch, classes: int) -> HeadFit:
    """Absolute error of depth, the prediction constant over a token.

    The mean of the known depths in each of `CELLS` x `CELLS` cells of a token stands for them,
    weighted by their number. In units of the median depth, where the prediction starts: the
    fit does not depend on the unit of length.
    """
    x, labels, valid = _labelled(features.maps, batch, "depth")
    gh, gw = x.shape[-2:]
    labels, weight = labels.to(x.dtype), valid.to(x.dtype)
    down = _pooling(labels.shape[1], CELLS * gh, x)
    across = _pooling(labels.shape[2], CELLS * gw, x)
    count = down @ weight @ across.mT
    mean = down @ (labels * weight) @ across.mT / count.clamp(min=1)
    count, mean = (
        part.view(-1, gh, CELLS, gw, CELLS).transpose(2, 3).reshape(-1, CELLS**2)
        for part in (count, mean)
    )
    scale = float(labels[valid].median())
    total = count.sum() * scale

    def loss(z: Tensor) -> Scalar:
        return ((metres(z, scale) - mean).abs() * count).sum() / total

    return HeadFit(_rows(x), x.new_full((1,), UNIT), loss, scale)


@typed
def classification_fit(features: DenseFeatures, batch: LabelledBatch, classes: int) -> HeadFit:
    """Cross-entropy of the pictures' classes, from their log-frequencies."""
    x, labels, _ = _labelled(features.pooled, batch, "classification")
    labels = labels.long()
    counts = torch.bincount(labels, minlength=classes).to(x.dtype)
    return HeadFit(x, log_frequencies(counts), lambda z: F.cross_entropy(z, labels))


FITS = {
    "segmentation": segmentation_fit,
    "depth": depth_fit,
    "classification": classification_fit,
}


def _labelled(x: Tensor, batch: LabelledBatch, task: str) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and their validity, of the pictures that are not all void."""
    valid = known(batch, task)
    labelled = valid.reshape(len(batch), -1).any(1)
    return x[labelled].detach(), labels_of(batch, task)[labelled], valid[labelled]


@typed
def log_frequencies(counts: Float[Tensor, " k"]) -> Float[Tensor, " k"]:
    """The best constant logits, with one count added to each class: one may be missing."""
    return ((counts + 1) / (counts + 1).sum()).log()


def _rows(maps: Tensor) -> Tensor:
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def _cells(size: Sequence[int], rows: int, columns: int, device: torch.device) -> Tensor:
    """The token, by its place in a row-major grid, that each pixel (h, w) lies in."""
    down = torch.arange(size[0], device=device) * rows // size[0]
    across = torch.arange(size[1], device=device) * columns // size[1]
    return down[:, None] * columns + across


def _pooling(pixels: int, cells: int, like: Tensor) -> Tensor:
    """The (cells, pixels) matrix that sums what lies in each cell."""
    cell = torch.arange(pixels, device=like.device) * cells // pixels
    return (torch.arange(cells, device=like.device)[:, None] == cell).to(like.dtype)
