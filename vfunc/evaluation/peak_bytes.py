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
    tensors. A kernel's own workspace it does not see. A storage that is resized by itself
    (`untyped_storage().resize_()`, as sharded parameters are) is seen to be when an operation next
    takes it, and not at all if it was there before the context.

    Attributes:
        live: bytes created within the context and alive now.
        peak: largest value of `live`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._known: dict[int, int] = {}  # what is counted of each storage
        self._sizes: dict[int, int] = {}  # and how large it was then

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Run the operation and note the storages that it made, and those whose size it changed."""
        kwargs = kwargs or {}
        storages = {s._cdata: s for s in _storages((args, kwargs))}
        sizes = {key: storage.nbytes() for key, storage in storages.items()}
        for key, storage in storages.items():
            if apart := sizes[key] - self._sizes.get(key, sizes[key]):
                self._note(storage, max(0, self._known[key] + apart))
        result = func(*args, **kwargs)
        for key, storage in storages.items():
            if grown := storage.nbytes() - sizes[key]:  # resize_, or an out= without room
                self._note(storage, max(0, self._known.get(key, 0) + grown))
        for storage in _storages(result):
            if storage._cdata not in storages:
                self._note(storage, storage.nbytes())
        return result

    def _note(self, storage: torch.UntypedStorage, size: int) -> None:
        key = storage._cdata
        if key not in self._known:
            weakref.finalize(storage, self._forget, key)
        self.live += size - self._known.get(key, 0)
        self._known[key], self._sizes[key] = size, storage.nbytes()
        self.peak = max(self.peak, self.live)

    def _forget(self, key: int) -> None:
        self.live -= self._known.pop(key)
        del self._sizes[key]


def _storages(values: Any) -> Iterator[torch.UntypedStorage]:
    return (x.untyped_storage() for x in tree_leaves(values) if isinstance(x, Tensor))


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
