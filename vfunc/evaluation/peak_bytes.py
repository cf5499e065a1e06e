"""Measures the peak memory of tensors, on a CPU by counting at allocation."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class PeakBytes(TorchDispatchMode):
    """Counts the bytes of tensor storages that operations create and that are still alive.

    It sees what goes through the dispatcher: activations, gradients, tangents, graphs' saved
    tensors. A kernel's own workspace it does not see.

    Attributes:
        live: bytes created within the context and alive now.
        peak: largest value of `live`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and note the storages that it made."""
        kwargs = kwargs or {}
        existed = {_address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **kwargs)
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and _address(x) not in existed:
                self._note(x)
        return result

    def _note(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known or not size:
            return
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size


def _address(x: Tensor) -> int:
    return x.untyped_storage()._cdata


@contextlib.contextmanager
def counting_peak(device: torch.device) -> Iterator[PeakBytes]:
    """Count the peak of bytes allocated within the context, by the device's own counter on CUDA.

    Yields:
        The counter; its `peak` holds when the context has ended.
    """
    counter = PeakBytes()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield counter
        counter.peak = torch.cuda.max_memory_allocated(device) - before
        return
    with counter:
        yield counter
