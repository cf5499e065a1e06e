"""Leaves the zero tangent of a frozen weight out of forward mode: two products in place of three.

torch's forward mode takes the tangent of x W^T as dx W^T + x dW^T, and where W has none it
multiplies a matrix of zeros (torch 2.13 to 2.15); the backward pass under forward mode does the
same. A language model's head with S above the embedding, or the weights beside adapters, are such:

    y = x W^T, dy = dx W^T;    g_x = g W, dg_x = dg W.

Right under `torch.func.jvp` of `torch.func.grad`, the composition of the engine `forward`, and
under any other, since a tangent and a backward pass are such products themselves.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def frozen_weights_once() -> Iterator[None]:
    """Have transforms within multiply by constant weights without a tangent of zeros.

    For passes whose results are detached: a weight that no transform follows gets no gradient, from
    outside neither. One that is made of others within a transform is followed.
    """
    with _OfFrozen():
        yield


class _OfFrozen(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if torch.compiler.is_compiling():  # a compiled graph is torch's own
            return func(*args, **kwargs)
        take = _taken_over().get(func)
        found = None if take is None else take(*args, **kwargs)
        return func(*args, **kwargs) if found is None else found


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor | None:
    return _product(input, weight, bias)


def _addmm(*given: Any, **named: Any) -> Tensor | None:
    """transformers' `Conv1D`, of GPT-2; without factors, and old forms of the call."""
    if named or len(given) != 3 or given[1].ndim != 2:
        return None
    return _product(given[1], given[2], given[0], turned=True)


def _matmul(*given: Any, **named: Any) -> Tensor | None:
    return None if named or len(given) != 2 else _product(*given, turned=True)


@functools.cache
def _taken_over() -> dict[Callable[..., Any], Callable[..., Tensor | None]]:
    """By function: what returns the same as torch's own does, or None where it is torch's.

    Not at import, where `--help` has a stand-in for torch.
    """
    return {
        F.linear: _linear,
        torch.addmm: _addmm,
        torch.matmul: _matmul,
        Tensor.matmul: _matmul,
        Tensor.__matmul__: _matmul,
    }


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, turned: bool = False
) -> Tensor | None:
    """x W^T + b with a transform's derivatives in x and b; None where W is not a constant matrix.

    Args:
        x: (..., in).
        weight: (out, in).
        bias: what is added.
        turned: whether the weight is (in, out).
    """
    if type(weight) not in (Tensor, nn.Parameter) or followed(weight) or not followed(x):
        return None
    if weight.ndim != 2 or weight.layout is not torch.strided or not weight.is_floating_point():
        return None
    device, weight = x.device.type, weight.detach()
    weight = weight.mT if turned else weight
    given = [x, weight] if bias is None else [x, weight, bias]
    if torch.is_autocast_enabled(device) and all(y.dtype != torch.float64 for y in given):
        x, weight, *rest = (y.to(torch.get_autocast_dtype(device)) for y in given)
        bias = rest[0] if rest else None
        given = [x, weight, *rest]
    # in other cases torch computes otherwise, or says what is wrong
    if any(y.dtype != x.dtype or y.device != x.device for y in given):
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    with torch.autocast(device, enabled=False):
        y = _Linear.apply(x, weight)
        return y if bias is None else y + bias


def followed(x: Tensor) -> bool:
    """Whether a transform of torch.func that is under way has made or wrapped this tensor."""
    functorch: Any = torch._C
    return functorch._functorch.is_functorch_wrapped_tensor(x)


class _Linear(torch.autograd.Function):
    """x W^T of x (..., in) and a constant W (out, in)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> Tensor:
        return F.linear(x, weight)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.set_materialize_grads(False)  # no zeros of the weight's size for its tangent
        ctx.save_for_backward(inputs[1])
        ctx.save_for_forward(inputs[1])

    @staticmethod
    def backward(ctx: Any, g: Tensor | None) -> tuple[Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (weight,) = ctx.saved_tensors
        return None if g is None else _Linear.apply(g, weight.mT), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        (weight,) = ctx.saved_tensors
        return _Linear.apply(tangents[0], weight)
