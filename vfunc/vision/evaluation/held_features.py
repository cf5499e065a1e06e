"""Computes frozen features of many pictures, some at a time, and keeps them where there is room."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vfunc.storage.overflow import Overflow
from vfunc.trees import Scalar
from vfunc.typecheck import typed
from vfunc.vision.data.batches import LabelledBatch, LabelledSet, are_known
from vfunc.vision.encoder.dense_features import DenseFeatures
from vfunc.vision.evaluation.exact_median import median_of
from vfunc.vision.feedback.head_fits import FITS, Losses, features_for, rows_of, start_of
from vfunc.vision.feedback.head_losses import Heads, LabelCheck
from vfunc.vision.feedback.heads import FitPart, HeadOptions, fitted, frozen_features

CHUNK = 64
"""Number of pictures at a time."""
TOGETHER = 2**28
"""Bytes of features that heads are fitted on at a time."""


def chunks(count: int, size: int | None = None) -> Iterator[range]:
    """The places of so many pictures, `CHUNK` of them at a time, or as many as are said."""
    size = size or CHUNK
    for at in range(0, count, size):
        yield range(at, min(at + size, count))


@dataclass(frozen=True)
class HeldFeatures:
    """Pictures with their features.

    Attributes:
        pictures: the pictures and their labels.
        pooled: their features, a row a picture, on the learner's device.
        maps: feature maps (n, c, gh, gw): there too, or in a file.
        device: the learner's.
    """

    pictures: LabelledSet
    pooled: Tensor
    maps: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.pooled)

    def features(self, at: range) -> DenseFeatures:
        """The features of some of them, on the device."""
        part = slice(at.start, at.stop)
        return DenseFeatures(self.pooled[part], self.maps[part].to(self.device))

    def batch(self, at: range) -> LabelledBatch:
        """Some of the pictures, on the device."""
        return self.pictures.rows(at).to(self.device)

    def labels(self, task: str, at: Sequence[int]) -> Tensor:
        """The labels of some of them, on the device."""
        return self.pictures.labels(task, at).to(self.device)

    def known(self, task: str) -> int:
        """Number of labels of a task."""
        return sum(int(are_known(self.labels(task, at), task).sum()) for at in chunks(len(self)))


@typed
def held_features(
    learner: nn.Module,
    pictures: LabelledSet,
    layers: int,
    tasks: Sequence[str],
    classes: Mapping[str, int],
    overflow: Overflow,
) -> HeldFeatures:
    """The features of all pictures, whose labels are checked on the way.

    Args:
        learner: `learner("dense", images, layers)` gives `pooled` and `maps`; left as it was.
        pictures: labelled pictures.
        layers: number of last blocks.
        tasks: tasks that they have to have labels for.
        classes: number of classes by task.
        overflow: where the maps are kept.

    Raises:
        UserError: labels of a task are missing, all void, or beyond the number of classes; or
            there is no room for the features.
    """
    check, pooled, maps = LabelCheck(tasks, classes), [], None
    device = next((p.device for p in learner.parameters()), torch.device("cpu"))
    for at in chunks(len(pictures)):
        batch = pictures.rows(at).to(device)
        check.see(batch)
        found = frozen_features(learner, batch.images, layers, CHUNK)
        if maps is None:
            _, c, gh, gw = found.maps.shape
            # a row a patch, which is how heads read them
            shape = (len(pictures), gh, gw, c)
            rows = overflow.room(shape, found.maps.dtype, "features", device)
            maps = rows.permute(0, 3, 1, 2)
        maps[at.start : at.stop] = found.maps
        pooled.append(found.pooled)
    check.end()
    assert maps is not None
    return HeldFeatures(pictures, torch.cat(pooled), maps, device)


@typed
def fit_on_held(
    held: HeldFeatures,
    tasks: Sequence[str],
    classes: Mapping[str, int],
    options: HeadOptions,
    overflow: Overflow,
) -> Heads:
    """`fit_on_features` for more features than have to be there at once.

    Where all are below `TOGETHER` bytes it is the same bit for bit; beyond, up to rounding.

    Args:
        held: the features.
        tasks: tasks to fit heads for.
        classes: number of classes by task.
        options: options of the fit.
        overflow: where what enters of the labels is kept.
    """
    each = held.maps[:1].numel() * held.maps.element_size()
    places = list(chunks(len(held), max(1, TOGETHER // each)))
    with torch.enable_grad(), torch.autocast(held.device.type, enabled=False):
        heads = {}
        for task in tasks:
            scale = median_depth(held) if task == "depth" else None
            made = [_kept(held, at, task, classes, scale, overflow) for at in places]
            kept = [one for one in made if one is not None]
            counts = [one.counts for one in kept if one.counts is not None]
            start = start_of(torch.stack(counts).sum(0) if counts else None, kept[0].like)
            total = torch.stack([one.total for one in kept]).sum()
            parts = [one.part for one in kept]
            heads[task] = fitted(parts, start, kept[0].losses, total, scale or 1.0, options)
    return Heads(options.layers, heads)


def median_depth(held: HeldFeatures) -> float:
    """The median of all known depths, in metres."""

    def known() -> Iterator[Tensor]:
        for at in chunks(len(held)):
            labels = held.labels("depth", at)
            yield labels[are_known(labels, "depth")]

    return median_of(known)


@dataclass(frozen=True)
class _Kept:
    """What of a part is kept between the steps of a fit; `like` is of its device and dtype."""

    part: FitPart
    like: Tensor
    losses: Losses
    total: Scalar
    counts: Tensor | None


def _kept(
    held: HeldFeatures,
    at: range,
    task: str,
    classes: Mapping[str, int],
    scale: float | None,
    overflow: Overflow,
) -> _Kept | None:
    """A part of the pictures; None where none of them has a label for the task."""
    if not bool(are_known(held.labels(task, at), task).any()):
        return None
    fit = FITS[task](held.features(at), held.batch(at), classes.get(task, 1), scale)
    if len(at) == len(held):
        part = FitPart(lambda: fit.x, lambda: fit.labels)
        return _Kept(part, fit.x, fit.losses, fit.total, fit.counts)
    places = []
    for one in fit.labels:
        place = overflow.room(one.shape, one.dtype, "label counts")
        place.copy_(one)
        places.append(place)
    labelled = fit.labelled

    def x() -> Tensor:
        return rows_of(features_for(held.features(at), task)[labelled])

    part = FitPart(x, lambda: tuple(place.to(held.device) for place in places))
    return _Kept(part, fit.x[:1].clone(), fit.losses, fit.total, fit.counts)
