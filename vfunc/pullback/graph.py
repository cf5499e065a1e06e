"""Reads an autograd graph: what there is in it that a second derivative cannot go through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node

from vfunc.forward_pass import round_off

WEIGHT_NORM = "WeightNormInterfaceBackward0"
"""torch's fused weight norm, whose double backward is .1 to .2 % off."""

_GENERATED = "GeneratedBackwardFor_"
"""How torch names the functions of operators that are registered with `torch.library`."""


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


def coarsest_of(outputs: Iterable[Tensor]) -> float:
    """The largest round-off of what some tensors were computed in, casts of a loss's own included.

    Args:
        outputs: tensors of floating-point numbers, with their graphs.
    """
    dtypes: set[torch.dtype] = set()
    for x in outputs:
        dtypes.add(x.dtype)
        for node in nodes([x]):
            dtypes |= {given.dtype for given in node._input_metadata}
    return max(round_off(dtype) for dtype in dtypes if dtype.is_floating_point)


def custom_classes(outputs: Iterable[Tensor]) -> list[Any]:
    """The custom `torch.autograd.Function`s behind some tensors."""
    kind = torch.autograd.function.BackwardCFunction
    found = [n._forward_cls for n in nodes(outputs) if isinstance(n, kind)]  # pyright: ignore[reportAttributeAccessIssue]: torch sets it
    return list(dict.fromkeys(found))


def custom_functions(outputs: Iterable[Tensor]) -> list[str]:
    """Names of the custom `torch.autograd.Function`s behind some tensors."""
    return list(dict.fromkeys(plain_name(c.__name__) for c in custom_classes(outputs)))


def plain_name(name: str) -> str:
    """A custom function's name; for one that torch has generated, its operator's."""
    return name.removeprefix(_GENERATED).removesuffix("_default")


def of_library(function: type) -> bool:
    """Whether a custom function is that of an operator of `torch.library`."""
    return function.__name__.startswith(_GENERATED)


def undifferentiable(outputs: Iterable[Tensor]) -> bool:
    """Whether a node behind some tensors only raises, as `once_differentiable` leaves it.

    `torch.autograd.grad(inputs=...)` does not reach such a node, and takes the path for a constant.
    """
    return any(node.name().rpartition("::")[2] == "Error" for node in nodes(outputs))
