"""Counts what graphs keep for their backward pass, without allocating any of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from vfunc.training.options.optimizer_options import OptimizerName, OptimizerOptions

GIB = 2**30

BUFFERS: dict[OptimizerName, int] = {
    **dict.fromkeys(("adamw", "adam", "nadam", "radam", "adamax", "adadelta"), 2),
    **dict.fromkeys(("adagrad", "rmsprop", "asgd"), 1),
    **dict.fromkeys(("sgd", "adafactor"), 0),
}
"""Copies of the parameters that an optimizer keeps, without momentum."""


def copies_of(optimizer: OptimizerOptions) -> int:
    """Copies of the trained parameters beside themselves: the gradient, and the state."""
    return 1 + BUFFERS[optimizer.optimizer] + bool(optimizer.momentum)


def fake(x: Tensor, device: torch.device) -> Tensor:
    """A tensor like that on a device; under `FakeTensorMode` it takes no memory."""
    like = torch.empty(x.shape, dtype=x.dtype, device=device)
    return like.requires_grad_(x.requires_grad)


@contextmanager
def counting_saved() -> Iterator[dict[int, int]]:
    """Bytes that graphs made in the context keep for their backward pass, by storage."""
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no storage is counted as another's

    def pack(x: Tensor) -> Tensor:
        if x.grad_fn is not None:
            kept.append(x)
            storage = x.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield sizes
