"""Reads an autograd graph: what there is in it that a second derivative cannot go through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor
from torch.autograd.graph import Node

WEIGHT_NORM = "WeightNormInterfaceBackward0"
"""torch's fused weight norm, whose double backward is .1 to .2 % off."""


def nodes(outputs: Iterable[Tensor]) -> Iterator[Node]:
    """The nodes behind some tensors, each once."""
    seen: set[Node] = set()
    todo = [x.grad_fn for x in outputs]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo += [after for after, _ in node.next_functions]


def custom_functions(outputs: Iterable[Tensor]) -> list[str]:
    """Names of the custom `torch.autograd.Function`s behind some tensors."""
    kind = torch.autograd.function.BackwardCFunction
    found = [type(n).__name__ for n in nodes(outputs) if isinstance(n, kind)]
    return [name.removesuffix("Backward") for name in dict.fromkeys(found)]


def undifferentiable(outputs: Iterable[Tensor]) -> bool:
    """Whether a node behind some tensors only raises, as `once_differentiable` leaves it.

    `torch.autograd.grad(inputs=...)` does not reach such a node, and takes the path for a constant.
    """
    return any(node.name().rpartition("::")[2] == "Error" for node in nodes(outputs))
