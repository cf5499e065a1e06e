"""Makes modules with seeded initial weights, on any device, meta included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor, nn

STD = 0.02
"""Standard deviation of linear layers' weights, as in DINO's and I-JEPA's code."""

_M = TypeVar("_M", bound=nn.Module)


@runtime_checkable
class Initialises(Protocol):
    """A module that initialises parameters of its own."""

    def initialise(self, generator: torch.Generator) -> None:
        """Set the parameters, in place."""
        ...


def seeded_module(make: Callable[[], _M], seed: int, like: Tensor) -> _M:
    """Make a module with weights from the seed; global random state is untouched.

    Linear layers get truncated normal weights and zero biases, norms the identity. A module with
    parameters of its own has a method `initialise(generator)` for them, called last.

    Args:
        make: constructor of the module.
        seed: seed of the weights.
        like: a tensor of the module's device and dtype; on meta nothing is initialised.

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
            # so that one which nothing below sets shows
            parameter.fill_(torch.nan)
        for child in module.modules():
            if isinstance(child, nn.Linear):
                nn.init.trunc_normal_(child.weight, std=STD, generator=generator)
                if child.bias is not None:
                    child.bias.zero_()
            elif isinstance(child, nn.LayerNorm):
                child.reset_parameters()
        for child in module.modules():
            if isinstance(child, Initialises):
                child.initialise(generator)
    return module.to(like.device)
