"""Stop-gradients of a loss: the operation by name, and the loss with what they hold kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vfunc.certification.traced_calls import (
    CustomCall,
    functions_too,
    innermost,
    leaves_of,
    located,
    uncompiled,
    watched,
)
from vfunc.trees import Params

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

    with watched(before) as tracker, functions_too(before):
        function()
    return found[0] if found else ""


class OtherPathError(Exception):
    """A second evaluation holds other things constant than the first: a choice went otherwise."""


class StoppedHeld:
    """Evaluations of a loss in which the results of stop-gradients are those of the first one.

    Its slopes in theta there are the loss's plain gradient, if stop-gradients are all that sets
    the two apart: a wrong derivative of some operation still does.
    """

    def __init__(self) -> None:
        self._kept: list[tuple[Any, Any]] | None = None

    def __call__(self, loss: Callable[[Params], Tensor], theta: Params) -> Tensor:
        """The loss at theta, with its graph.

        Args:
            loss: of theta; of the same code each time.
            theta: autograd leaves.

        Raises:
            OtherPathError: it holds other things constant than the first time.
        """
        first = self._kept is None
        kept = [] if self._kept is None else list(self._kept)
        keeping = _Keeping({id(x) for x in theta.values()}, kept, first)
        with uncompiled(), keeping, functions_too(keeping.before_custom), torch.enable_grad():
            found = loss(theta)
        if first:
            self._kept = kept
        elif kept:
            raise OtherPathError
        return found


@dataclass
class _Keeping(TorchFunctionMode):
    """Keeps the results of stop-gradients, or gives those that were kept in their place.

    Attributes:
        own: identities of theta's leaves.
        kept: the functions and their results, in order.
        first: whether they are to be kept.
        inside: custom functions, whose own operations are always under no_grad.
    """

    own: set[int]
    kept: list[tuple[Any, Any]]
    first: bool
    inside: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def before_custom(self, func: Any, args: Any, kwargs: Any) -> Callable[[Any], None] | None:
        """Notes that a custom function runs."""
        if not isinstance(func, CustomCall) or not torch.is_grad_enabled():
            return None
        self.inside.append(func)
        return lambda result: self.inside.pop() and None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if not self._stops(func, args, kwargs):
            return func(*args, **kwargs)
        if self.first:
            result = func(*args, **kwargs)
            if self._says(func, result):
                self.kept.append((func, result))
            return result
        if not self.kept or self.kept[0][0] != func:
            result = func(*args, **kwargs)
            if self._says(func, result):
                raise OtherPathError
            return result
        result = self.kept.pop(0)[1]
        if func == Tensor.detach_:
            with torch.no_grad():
                return func(*args, **kwargs).copy_(result)
        return result

    def _stops(self, func: Any, args: Any, kwargs: Any) -> bool:
        """Whether a call may make a constant of what depends on theta."""
        if self.inside:
            return False
        depends = any(
            x.requires_grad and (not x.is_leaf or id(x) in self.own)
            for x in leaves_of((args, kwargs))
        )
        return depends and (not torch.is_grad_enabled() or self._cuts(func))

    def _cuts(self, func: Any) -> bool:
        return func in CUTS or getattr(func, "__name__", "") in NUMBERS

    def _says(self, func: Any, result: Any) -> bool:
        return self._cuts(func) or any(x.is_floating_point() for x in leaves_of(result))
