"""New modules whose weights a seed alone decides, on any device, meta included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

STD = 0.02
"""Of linear layers, as in DINO's and I-JEPA's code."""

_M = TypeVar("_M", bound=nn.Module)


@runtime_checkable
class Drawn(Protocol):
    """A module that holds parameters of its own, and draws them."""

    def draw(self, generator: torch.Generator) -> None:
        """Set the parameters, in place."""
        ...


def drawn(make: Callable[[], _M], seed: int, like: Tensor) -> _M:
    """Make a module with weights from the seed; global random state is untouched.

    Linear layers get truncated normal weights and zero biases, norms the identity. A module of the
    tree that holds parameters of its own has a method `draw(generator)` for them, called last.

    Args:
        make: builds the module.
        seed: of its weights.
        like: a tensor whose device and dtype the module gets; on meta nothing is drawn.

    Returns:
        The module.
    """
    with torch.device("meta"):
        module = make()
    module.to(dtype=like.dtype)
    if like.is_meta:
        return module
    module.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            # so that one which nothing below draws shows
            parameter.fill_(torch.nan)
        for child in module.modules():
            if isinstance(child, nn.Linear):
                nn.init.trunc_normal_(child.weight, std=STD, generator=generator)
                if child.bias is not None:
                    child.bias.zero_()
            elif isinstance(child, nn.LayerNorm):
                child.reset_parameters()
        for child in module.modules():
            if isinstance(child, Drawn):
                child.draw(generator)
    return module.to(like.device)
