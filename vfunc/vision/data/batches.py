"""Types of a batch: unlabeled crops, and labelled pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vfunc.errors import UserError

IGNORE = -100
"""Class of a pixel without one: unlabeled, void, or beyond the picture's edge."""

FIELDS = {"segmentation": "segmentation", "depth": "depth", "classification": "classes"}
"""The field of a labelled batch that holds a task's labels."""


@dataclass(frozen=True)
class Blocks:
    """I-JEPA's blocks of patches, as indices into the row-major patch grid.

    Attributes:
        context: the patches that the student sees, image by image.
        targets: m blocks of patches whose features it predicts.
    """

    context: Int[Tensor, "b c"]
    targets: Int[Tensor, "b m t"]


@dataclass(frozen=True)
class UnlabeledBatch:
    """Crops of b pictures, cut and coloured: one micro-batch of the stream.

    Attributes:
        views: inputs of the designer: DINO's g = 2 global crops; I-JEPA's g = 1 picture.
        locals: DINO's l local crops; l = 0 where the objective has none.
        blocks: I-JEPA's blocks; None where the objective has none.
        masks: the masks of views in an arm that is told them; None in every other.
    """

    views: Float[Tensor, "g b 3 h w"]
    locals: Float[Tensor, "l b 3 k k"]
    blocks: Blocks | None = None
    masks: Float[Tensor, "g b 1 h w"] | None = None

    def __len__(self) -> int:
        return self.views.shape[1]

    def first(self, count: int) -> UnlabeledBatch:
        """The crops of the first `count` pictures."""
        blocks = self.blocks and Blocks(self.blocks.context[:count], self.blocks.targets[:count])
        masks = None if self.masks is None else self.masks[:, :count]
        return UnlabeledBatch(self.views[:, :count], self.locals[:, :count], blocks, masks)

    def to(self, device: torch.device) -> UnlabeledBatch:
        """The same on a device."""
        return _to(self, device)


@dataclass(frozen=True)
class LabelledBatch:
    """Pictures with labels of one kind or more.

    Attributes:
        images: the pictures.
        segmentation: the class of every pixel, `IGNORE` where there is none.
        depth: metres, 0 where it is not known.
        classes: the class of the picture.
    """

    images: Float[Tensor, "b 3 h w"]
    segmentation: Int[Tensor, "b h w"] | None = None
    depth: Float[Tensor, "b h w"] | None = None
    classes: Int[Tensor, " b"] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def rows(self, at: Sequence[int]) -> LabelledBatch:
        """See `LabelledSet.rows`."""
        index = torch.as_tensor(at, dtype=torch.long, device=self.images.device)
        maps = {n: getattr(self, n) for n in FIELDS.values()}
        chosen = {n: x if x is None else x[index] for n, x in maps.items()}
        return LabelledBatch(self.images[index], **chosen)

    def labels(self, task: str, at: Sequence[int]) -> Tensor:
        """See `LabelledSet.labels`."""
        labels = labels_of(self, task)
        return labels[torch.as_tensor(at, dtype=torch.long, device=labels.device)]

    def to(self, device: torch.device) -> LabelledBatch:
        """The same on a device."""
        return _to(self, device)


@runtime_checkable
class LabelledSet(Protocol):
    """Labelled pictures of one size, more than have to be there at once."""

    def __len__(self) -> int: ...

    def rows(self, at: Sequence[int]) -> LabelledBatch:
        """The pictures at these places, with their labels."""
        ...

    def labels(self, task: str, at: Sequence[int]) -> Tensor:
        """Their labels for a task alone.

        Raises:
            UserError: they have none, or there is no such task.
        """
        ...


def labels_of(batch: LabelledBatch, task: str) -> Tensor:
    """The batch's labels for a task.

    Raises:
        UserError: it has none, or there is no such task.
    """
    if task not in FIELDS:
        raise UserError(f"unknown feedback task {task!r}; known: {', '.join(FIELDS)}")
    labels = getattr(batch, FIELDS[task])
    if labels is None:
        raise UserError(f"{task} is asked for, but the labelled pictures have no {task} labels")
    return labels


def are_known(labels: Tensor, task: str) -> Bool[Tensor, "*shape"]:
    """Where labels for a task say something."""
    return labels > 0 if task == "depth" else labels != IGNORE


_T = TypeVar("_T", UnlabeledBatch, LabelledBatch, Blocks)


def _to(batch: _T, device: torch.device) -> _T:
    moved = {}
    for field in fields(batch):
        x = getattr(batch, field.name)
        moved[field.name] = (
            x if x is None else (_to(x, device) if isinstance(x, Blocks) else x.to(device))
        )
    return replace(batch, **moved)
