"""Keep a float64 model in float64 where its code asks for float32.

transformers computes RMSNorm and attention's softmax in float32 whatever the model's precision
(`hidden_states.to(torch.float32)`, `softmax(..., dtype=torch.float32)`). In float64 that rounds
the loss at 1e-7, and a finite difference of it is then wrong by 1e-4 to 1e-2: no gradient can be
certified against it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
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
