"""Sets mixed precision around a forward pass, and measures the round-off of a loss."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import Tensor


def autocast(
    device: torch.device, dtype: torch.dtype | None
) -> torch.autocast | contextlib.nullcontext:
    """Mixed precision, without the weight cache: a cast of one theta must not serve another.

    Args:
        device: device of the forward pass.
        dtype: dtype of matrix products; None keeps the parameters'.
    """
    if dtype is None:
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=dtype, cache_enabled=False)


def round_off(dtype: torch.dtype) -> float:
    """The distance from 1 to the next number of a dtype."""
    return torch.finfo(dtype).eps


def coarser(dtype: torch.dtype, other: torch.dtype | None) -> torch.dtype:
    """The one of two dtypes with the larger round-off; None is no dtype."""
    return dtype if other is None else max(dtype, other, key=round_off)


def coarsest_round_off(theta: Mapping[str, Tensor], compute_dtype: torch.dtype | None) -> float:
    """The largest round-off of the dtypes that a loss goes through.

    Args:
        theta: the learner's parameters.
        compute_dtype: what the loss is computed in, where that is coarser than theta's own.
    """
    return max(round_off(coarser(x.dtype, compute_dtype)) for x in theta.values())
