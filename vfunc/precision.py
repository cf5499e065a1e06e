"""Sets mixed precision around a forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Mixed precision, without the weight cache: a cast of one theta must not serve another.

    Args:
        device: device of the forward pass.
        dtype: dtype of matrix products; None keeps the parameters'.
    """
    if dtype is None:
        yield
        return
    with torch.autocast(device.type, dtype=dtype, cache_enabled=False):
        yield
