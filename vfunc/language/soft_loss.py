"""Computes soft cross-entropy over candidate tokens, normalised over the full vocabulary.

L = -sum_t weight_t sum_k q_tk log p_t(c_tk)                                        (paper, 15)

It needs only a logsumexp and a gather of K columns a position, so float32 log-probabilities of
the whole vocabulary need not exist at once: rows are taken in chunks, and rows of weight zero
(prompt and padding) not at all. Two forms of the same numbers:

- `soft_cross_entropy`, for the learner's own step: a hand-written first derivative that keeps the
  logits and one number a row for the backward pass;
- `candidate_log_probs`, plain differentiable arithmetic of any order and mode, for the engines. In
  a forward-mode or gradient-free pass the chunks are all there is; under autograd they are kept.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vfunc.language.data.examples import TokenBatch
from vfunc.typecheck import typed

CHUNK_ELEMENTS = 2**24
"""Number of logits converted to float32 at a time: 64 MiB."""


@typed
def candidate_log_probs(
    logits: Float[Tensor, "B T V"], candidates: Int[Tensor, "B T K"], weight: Float[Tensor, "B T"]
) -> Float[Tensor, "B T K"]:
    """log p of the candidates, in float32 at least; zero in rows of weight zero.

    Args:
        logits: the learner's output.
        candidates: token ids.
        weight: each position's weight in the loss; only where it is zero matters here.

    Returns:
        Log-probabilities, normalised over all V tokens.
    """
    flat, ids = logits.flatten(0, 1), candidates.flatten(0, 1)
    rows = weight.flatten().nonzero().squeeze(-1)
    chunks = [
        _log_probs(flat.index_select(0, part), ids.index_select(0, part))
        for part in rows.split(_rows_a_chunk(flat))
    ]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    zeros = torch.zeros(ids.shape, dtype=dtype, device=ids.device)
    return zeros.index_copy(0, rows, torch.cat(chunks)).view(candidates.shape)


@typed
def soft_cross_entropy(
    logits: Float[Tensor, "B T V"],
    candidates: Int[Tensor, "B T K"],
    q: Float[Tensor, "B T K"],
    weight: Float[Tensor, "B T"],
) -> Float[Tensor, ""]:
    """-sum weight <q, log p>: the learner's loss, first derivatives in the logits alone.

    With q = (1, 0, ..., 0) it equals the one-hot loss of a single candidate bit for bit, value
    and gradient: the other candidates add exact zeros.

    Args:
        logits: the learner's output, in its own dtype.
        candidates: token ids, the true token first.
        q: soft targets, detached.
        weight: each position's weight.

    Returns:
        The loss, in float32 at least.

    Raises:
        ValueError: q or weight carries a graph: a task is detached before the learner steps on it.
    """
    if q.requires_grad or weight.requires_grad:
        raise ValueError("targets must be detached before the learner's step (invariant 3)")
    return _SoftCrossEntropy.apply(
        logits.flatten(0, 1), candidates.flatten(0, 1), q.flatten(0, 1), weight.flatten()
    )


def next_token_loss(logits: Tensor, batch: TokenBatch) -> Tensor:
    """Ordinary cross-entropy of the true next tokens, a mean over the predicted positions."""
    candidates, q = one_hot(batch)
    return soft_cross_entropy(logits, candidates, q, position_weights(batch.predict))


def one_hot(batch: TokenBatch) -> tuple[Tensor, Tensor]:
    """(candidates, q) of ordinary next-token prediction: the true token alone, with all the mass.

    Shapes (B, T, 1) both.
    """
    candidates = batch.next_tokens.unsqueeze(-1)
    return candidates, torch.ones(candidates.shape, device=candidates.device)


def position_weights(predict: Tensor) -> Tensor:
    """1 / n on the n predicted positions, 0 elsewhere: the loss is a mean over predictions.

    A float32 tensor of the mask's shape. All zero if nothing is predicted.
    """
    return predict.float() / predict.sum().clamp(min=1)


def _rows_a_chunk(logits: Tensor) -> int:
    return max(1, CHUNK_ELEMENTS // logits.shape[-1])


def _log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.gather(-1, ids) - wide.logsumexp(-1, keepdim=True)


class _SoftCrossEntropy(torch.autograd.Function):
    """Keeps the logits (which the learner's graph holds anyway) and one logsumexp a row."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, ids: Tensor, q: Tensor, weight: Tensor) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        rows = weight.nonzero().squeeze(-1)
        q, weight = q.to(dtype), weight.to(dtype)
        total = torch.zeros((), dtype=dtype, device=logits.device)
        normalisers = []
        for part in rows.split(_rows_a_chunk(logits)):
            wide = logits.index_select(0, part).to(dtype)
            lse = wide.logsumexp(-1)
            picked = wide.gather(-1, ids[part])
            row = (q[part] * (picked - lse[:, None])).sum(-1)
            total = total - (weight[part] * row).sum()
            normalisers.append(lse)
        ctx.save_for_backward(logits, ids, q, weight, rows, torch.cat(normalisers))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]  once_differentiable hides the names
        logits, ids, q, weight, rows, normalisers = ctx.saved_tensors
        grad = torch.zeros_like(logits)
        chunk = _rows_a_chunk(logits)
        for part, lse in zip(rows.split(chunk), normalisers.split(chunk), strict=True):
            scale = (weight[part] * upstream)[:, None]
            share = (logits.index_select(0, part).to(lse.dtype) - lse[:, None]).exp_()
            share *= scale * q[part].sum(-1, keepdim=True)
            share.scatter_add_(-1, ids[part], -scale * q[part])
            grad.index_copy_(0, part, share.to(grad.dtype))
        return grad, None, None, None
