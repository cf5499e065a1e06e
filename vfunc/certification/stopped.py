"""Names the operation by which a loss holds something constant: a stop-gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils.module_tracker import ModuleTracker

from vfunc.certification.traced_calls import (
    CustomCall,
    Watch,
    functions_too,
    innermost,
    leaves_of,
    located,
)

CUTS = (
    Tensor.detach,
    Tensor.detach_,
    Tensor.data.__get__,  # pyright: ignore[reportAttributeAccessIssue]: a descriptor of C
)
"""Operations whose result is constant, whatever they are given."""

NUMBERS = ("item", "tolist", "numpy", "__float__", "__int__", "__array__")
"""Names of those that give numbers outside of torch."""

REMEDY = (
    "write what is held constant with theta as a third argument (ValueProblem's stop_gradient), or "
    "as a part of the batch"
)


def first_stopped(function: Callable[[], Tensor], leaves: Iterable[Tensor]) -> str:
    """The first operation that makes a constant of what depends on the leaves; "" if none does.

    Args:
        function: what is evaluated, such as a loss.
        leaves: theta's and the task's autograd leaves.
    """
    own = {id(x) for x in leaves}
    found: list[str] = []
    inside: list[Any] = []  # custom functions, whose own operations are always under no_grad

    def depends(x: Tensor) -> bool:
        return x.requires_grad and (not x.is_leaf or id(x) in own)

    def before(func: Any, args: Any, kwargs: Any) -> Callable[[Any], None] | None:
        if isinstance(func, CustomCall):
            inside.append(func)
            return lambda result: inside.pop() and None
        if found or inside or not any(depends(x) for x in leaves_of((args, kwargs))):
            return None
        where = located(innermost(tracker), func).removesuffix(".__get__")
        if func in CUTS or getattr(func, "__name__", "") in NUMBERS:
            found.append(where)
            return None
        if torch.is_grad_enabled():
            return None

        def after(result: Any) -> None:
            if any(x.is_floating_point() for x in leaves_of(result)):
                found.append(f"{where}, under torch.no_grad(),")

        return after

    with ModuleTracker() as tracker, Watch(before), functions_too(before), torch.enable_grad():
        function()
    return found[0] if found else ""
