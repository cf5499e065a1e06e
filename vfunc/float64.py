"""Keeps a float64 model in float64 where its code asks for float32.

transformers computes RMSNorm and attention's softmax in float32 whatever the model's precision
(`hidden_states.to(torch.float32)`, `softmax(..., dtype=torch.float32)`). In float64 that rounds
the loss at 1e-7, and a finite difference of it is then wrong by 1e-4 to 1e-2: no gradient can be
certified against it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class _KeepFloat64(TorchFunctionMode):
    """Replaces float32 dtype arguments of calls on float64 tensors."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        operand = args[0] if args else kwargs.get("input")
        if isinstance(operand, Tensor) and operand.dtype == torch.float64:
            if func is torch.Tensor.float:
                return operand.double()
            args = tuple(_widened(x) for x in args)
            kwargs = {name: _widened(x) for name, x in kwargs.items()}
        return func(*args, **kwargs)


def _widened(argument: Any) -> Any:
    return torch.float64 if argument is torch.float32 else argument


@contextlib.contextmanager
def keep_float64() -> Iterator[None]:
    """Within this context a cast of a float64 tensor to float32 leaves it in float64.

    Put it around the forward of a float64 model whose code casts to float32; the transforms of
    `torch.func` and the backward pass follow the graph and need no context of their own. Tensors
    of other dtypes are untouched, so it changes nothing for a float32 or bfloat16 model.
    """
    with _KeepFloat64():
        yield


class _PromoteFloat64(TorchFunctionMode):
    """Brings every operand of a call up to float64 where one of them is in it."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "__get__":  # an attribute: nothing is computed
            return func(*args, **kwargs)
        found: set[object] = set()
        _look(args, found)
        _look(kwargs.values(), found)
        if torch.float64 not in found:
            return func(*args, **kwargs)
        if func in _CASTS:
            return args[0].double()
        if found.isdisjoint(_COARSE):
            return func(*args, **kwargs)
        if args and _is_coarse(args[0]) and _writes_in_place(func):
            # no TypeError: `x += y` would take it for "try another way"
            raise RuntimeError(
                f"{func.__name__} writes float64 numbers into a {args[0].dtype} tensor in place"
            )
        return func(*_promoted(args), **_promoted(dict(kwargs)))


_COARSE = frozenset((torch.float32, torch.float16, torch.bfloat16))
_CASTS = (torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16)


def _is_coarse(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dtype in _COARSE


def _writes_in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "")
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


def _look(arguments: Iterable[Any], found: set[object]) -> None:
    """Notes the dtypes of all tensors among arguments, and dtypes coarser than float64.

    Args:
        arguments: of a call, collections in collections too.
        found: what is found is put into it.
    """
    for x in arguments:
        if isinstance(x, Tensor):
            found.add(x.dtype)
        elif isinstance(x, list | tuple):
            _look(x, found)
        elif isinstance(x, dict):
            _look(x.values(), found)
        elif isinstance(x, torch.dtype) and x in _COARSE:
            found.add(x)


def _promoted(x: Any) -> Any:
    if isinstance(x, Tensor):
        return x.double() if x.dtype in _COARSE else x
    if isinstance(x, torch.dtype):
        return torch.float64 if x in _COARSE else x
    if type(x) in (list, tuple):
        return type(x)(map(_promoted, x))
    return {k: _promoted(v) for k, v in x.items()} if type(x) is dict else x


@contextlib.contextmanager
def promote_float64() -> Iterator[None]:
    """Within this context a float64 tensor stays in float64 whatever it meets.

    More than `keep_float64`: operands of float32 and coarser (a frozen parameter, a buffer, a
    constant that a closure holds) are cast up where they meet a float64 tensor, casts down leave
    float64 as it is, and new tensors are float64 by default. So a float32 function, given
    float64 arguments, computes in float64, without a change to its code.

    Raises:
        RuntimeError: inside, where float64 numbers would be written into a coarser tensor in place.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _PromoteFloat64():
            yield
    finally:
        torch.set_default_dtype(default)
