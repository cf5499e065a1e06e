"""Masks of the arm that is told how much the designer of another arm kept, and not where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from vfunc.errors import UserError
from vfunc.vision.data.batches import UnlabeledBatch


def kept_of(steps: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """The mean of the designer's masks at each micro-batch of the arm that is followed.

    Args:
        steps: what was logged of each micro-batch; where no mask was made (the designer had not
            begun) all was kept.

    Raises:
        UserError: no mask was made at all.
    """
    if not any("kept" in step for step in steps):
        raise UserError(
            "the arm matched_uniform takes the mean of the masks of vpretraining, which has made "
            "none in this run; take it out of --arms"
        )
    return tuple(float(step.get("kept", 1.0)) for step in steps)


def constant_masks(
    batch: UnlabeledBatch, kept: Sequence[float], position: int
) -> Float[Tensor, "g b 1 h w"]:
    """Masks that keep so much everywhere.

    Args:
        batch: the micro-batch.
        kept: of each micro-batch; beyond the last one it goes on as the last.
        position: of the micro-batch in the stream.
    """
    mean = kept[min(position, len(kept) - 1)]
    return torch.full_like(batch.views[:, :, :1], mean)
