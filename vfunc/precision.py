"""Mixed precision around a forward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Mixed precision, without the weight cache: a cast of one theta must not serve another.

    Args:
        device: where the forward runs.
        dtype: of matrix products; None leaves the parameters' own.
    """
    if dtype is None:
        yield
        return
    with torch.autocast(device.type, dtype=dtype, cache_enabled=False):
        yield
