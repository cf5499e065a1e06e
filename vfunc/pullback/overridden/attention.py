"""Attention and its tangent in one pass over blocks of queries, for the linear engine.

torch's forward mode takes `scaled_dot_product_attention` apart: each of some twenty operations
makes a tensor of all queries times all keys, twice. Here

    p = softmax(s),  s = q k^T / sqrt(d);   o = p v
    dp = p * (ds - <p, ds>),                do = dp v + p dv

is taken for a few queries at a time, so that no such tensor leaves the cache, and of a causal
attention the half that is not masked alone. It is a tangent of first order and no more: nothing is
differentiated through it again.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

BLOCK = 2**18
"""Scores at a time on a CPU: 1 MiB of float32."""

DEVICE_BLOCK = 2**26
"""The same on a device."""

QUERIES = 128
"""Queries of a block of causal attention, at most."""


@contextlib.contextmanager
def attention_in_blocks() -> Iterator[None]:
    """Have forward-mode passes within take attention and its tangent by `attention_along`.

    What it does not know (dropout, masks that are differentiated, nested tensors) is left to torch.
    """
    with _InBlocks():
        yield


class _InBlocks(TorchFunctionMode):
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            found = _taken(*args, **(kwargs or {}))
            if found is not None:
                return found
        return func(*args, **(kwargs or {}))


def _taken(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor | None:
    """What `scaled_dot_product_attention` returns, tangent included; None where it is torch's."""
    given = (query, key, value)
    if dropout_p or query.ndim < 3 or any(x.is_nested for x in given):
        return None
    if torch.is_grad_enabled() and any(x.requires_grad for x in given):
        return None
    pairs = [forward_ad.unpack_dual(x) for x in given]
    if all(pair.tangent is None for pair in pairs):
        return None
    if attn_mask is not None:
        mask = forward_ad.unpack_dual(attn_mask)
        if mask.tangent is not None or attn_mask.requires_grad:
            return None
        attn_mask = mask.primal
    many = query.shape[-3] // key.shape[-3] if enable_gqa else 1

    def repeated(x: Tensor | None) -> Tensor | None:
        return x if x is None or many == 1 else x.repeat_interleave(many, -3)

    (q, dq), (k, dk), (v, dv) = pairs
    keys, values = (repeated(k), repeated(dk)), (repeated(v), repeated(dv))
    assert keys[0] is not None and values[0] is not None
    o, do = attention_along(
        (q, dq),
        (keys[0], keys[1]),
        (values[0], values[1]),
        attn_mask,
        causal=is_causal,
        scale=scale,
    )
    return forward_ad.make_dual(o, do)


def attention_along(
    query: tuple[Tensor, Tensor | None],
    key: tuple[Tensor, Tensor | None],
    value: tuple[Tensor, Tensor | None],
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention and its tangent.

    Args:
        query: (..., L, E) and its tangent; None is zero.
        key: (..., S, E), likewise.
        value: (..., S, F), likewise.
        mask: as that of `torch.nn.functional.scaled_dot_product_attention`, broadcast to
            (..., L, S); a query of which all is masked gives zeros, as it does there.
        causal: whether query i sees the keys up to i alone.
        scale: what scores are multiplied by; None is 1 / sqrt(E).

    Returns:
        The output (..., L, F) and its tangent.
    """
    (q, dq), (k, dk), (v, dv) = query, key, value
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    lead = torch.broadcast_shapes(*(x.shape[:-2] for x in (q, k, v)))
    length, size = q.shape[-2], k.shape[-2]

    def rows(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.expand(*lead, *x.shape[-2:]).flatten(0, -3)

    parts = [rows(x) for x in (q, dq, k, dk, v, dv)]
    if mask is not None:
        mask = mask.expand(*lead, length, size).flatten(0, -3)
    of_head = math.prod(lead)
    block = BLOCK if q.device.type == "cpu" else DEVICE_BLOCK
    outputs, tangents = [], []
    step = min(length, QUERIES) if causal else length
    for first in range(0, length, step):
        last = min(first + step, length)
        seen = min(last, size) if causal else size
        some = max(1, block // max(1, (last - first) * seen))
        found = []
        for i in range(0, of_head, some):
            heads = slice(i, i + some)
            own_q, own_dq = (None if x is None else x[heads, first:last] for x in parts[:2])
            known = (None if x is None else x[heads, :seen] for x in parts[2:])
            own_k, own_dk, own_v, own_dv = known
            kept = None if mask is None else mask[heads, first:last, :seen]
            if causal:
                below = torch.ones(last - first, seen, dtype=torch.bool, device=q.device)
                kept = below.tril(first)
            found.append(_block(own_q, own_dq, own_k, own_dk, own_v, own_dv, kept, scale))
        outputs.append(torch.cat([o for o, _ in found]))
        tangents.append(torch.cat([do for _, do in found]))
    o, do = torch.cat(outputs, -2), torch.cat(tangents, -2)
    return o.unflatten(0, lead), do.unflatten(0, lead)


def _block(
    q: Tensor | None,
    dq: Tensor | None,
    k: Tensor | None,
    dk: Tensor | None,
    v: Tensor | None,
    dv: Tensor | None,
    mask: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Outputs and tangents of some queries; scores are in float32 at least."""
    assert q is not None and k is not None and v is not None
    dtype = torch.promote_types(q.dtype, torch.float32)
    s = (q @ k.mT).to(dtype).mul_(scale)
    if mask is not None and mask.dtype == torch.bool:
        s.masked_fill_(~mask, -torch.inf)
    elif mask is not None:
        s += mask
    top = s.amax(-1, keepdim=True).clamp_(min=torch.finfo(dtype).min)
    p = s.sub_(top).exp_()
    p /= p.sum(-1, keepdim=True).clamp_(min=torch.finfo(dtype).tiny)
    ds = None
    if dq is not None:
        ds = (dq @ k.mT).to(dtype)
    if dk is not None:
        other = (q @ dk.mT).to(dtype)
        ds = other if ds is None else ds.add_(other)
    own = p.to(v.dtype)
    o = own @ v
    do = torch.zeros_like(o) if dv is None else own @ dv
    if ds is not None:
        dp = ds.mul_(scale).sub_(torch.linalg.vecdot(p, ds)[..., None]).mul_(p)
        do = do + dp.to(v.dtype) @ v
    return o, do
