"""Types of a batch: unlabeled crops, and labelled pictures."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

IGNORE = -100
"""Class of a pixel without one: unlabeled, void, or beyond the picture's edge."""


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

    def to(self, device: torch.device) -> LabelledBatch:
        """The same on a device."""
        return _to(self, device)


_T = TypeVar("_T", UnlabeledBatch, LabelledBatch, Blocks)


def _to(batch: _T, device: torch.device) -> _T:
    moved = {}
    for field in fields(batch):
        x = getattr(batch, field.name)
        moved[field.name] = (
            x if x is None else (_to(x, device) if isinstance(x, Blocks) else x.to(device))
        )
    return replace(batch, **moved)
