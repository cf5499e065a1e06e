"""Computes soft cross-entropy over candidate tokens, normalised over the full vocabulary.

L = -sum_t weight_t sum_k q_tk log p_t(c_tk)                                        (paper, 15)

It needs only a logsumexp and a gather of K columns a position, so float32 log-probabilities of
the whole vocabulary need not exist at once: rows are taken in chunks, and rows of weight zero
(prompt and padding) not at all. Two forms of the same numbers:

- `soft_cross_entropy`, for the learner's own step: a hand-written first derivative that keeps the
  logits and one number a row for the backward pass;
- `candidate_log_probs`, plain differentiable arithmetic of any order and mode, for the engines. In
  a forward-mode or gradient-free pass the chunks are all there is; under autograd they are kept.

Logits are those of all positions (B, T, V), or of the predicted ones alone, in their order (N, V),
as `vfunc.language.trimmed.trim` has the learner give them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from vfunc.language.data.examples import TokenBatch
from vfunc.typecheck import typed

CHUNK_ELEMENTS = 2**24
"""Number of logits in float32 at a time: 64 MiB, for a device to be busy with."""

CPU_CHUNK_ELEMENTS = 2**18
"""The same on a CPU: 1 MiB, which stays in its cache.

Above 32 MiB glibc's malloc maps every buffer anew, and each page of it is faulted in, which costs
more than the arithmetic.
"""


@typed
def candidate_log_probs(
    logits: Float[Tensor, "*rows V"], candidates: Int[Tensor, "B T K"], weight: Float[Tensor, "B T"]
) -> Float[Tensor, "B T K"]:
    """log p of the candidates, in float32 at least; zero in rows of weight zero.

    Args:
        logits: the learner's output, at all positions or at those of weight above zero.
        candidates: token ids.
        weight: each position's weight in the loss; only where it is zero matters here.

    Returns:
        Log-probabilities, normalised over all V tokens.
    """
    ids, rows = candidates.flatten(0, 1), weight.flatten().nonzero().squeeze(-1)
    flat, places = rows_of(logits, rows)
    size = rows_a_chunk(flat)
    # rows of a view of each chunk: rows taken of the whole would have a gradient of its size each
    views = flat.split(size)
    counts = (places // size).bincount(minlength=len(views)).tolist()
    parts = zip(views, places.split(counts), rows.split(counts), strict=True)
    chunks = [
        _log_probs(view.index_select(0, place - i * size), ids.index_select(0, own))
        for i, (view, place, own) in enumerate(parts)
        if len(own)
    ] or [_log_probs(flat[:0], ids[:0])]
    dtype = torch.promote_types(logits.dtype, torch.float32)
    zeros = torch.zeros(ids.shape, dtype=dtype, device=ids.device)
    return zeros.index_copy(0, rows, torch.cat(chunks)).view(candidates.shape)


@typed
def soft_cross_entropy(
    logits: Float[Tensor, "*rows V"],
    candidates: Int[Tensor, "B T K"],
    q: Float[Tensor, "B T K"],
    weight: Float[Tensor, "B T"],
    known: tuple[Float[Tensor, "B T K"], Float[Tensor, "B T"]] | None = None,
) -> Float[Tensor, ""]:
    """-sum weight <q, log p>: the learner's loss, first derivatives in the logits alone.

    With q = (1, 0, ..., 0) it equals the one-hot loss of a single candidate bit for bit, value
    and gradient: the other candidates add exact zeros.

    Args:
        logits: the learner's output, in its own dtype, at all positions or at those of weight
            above zero.
        candidates: token ids, the true token first.
        q: soft targets, detached.
        weight: each position's weight.
        known: log p of the candidates and the logsumexp of each row, where these very logits have
            been looked at already (`observe`): the loss then reads no logits, and its backward
            pass reads them once. The same numbers, bit for bit.

    Returns:
        The loss, in float32 at least.

    Raises:
        ValueError: q or weight carries a graph: a task is detached before the learner steps on it.
    """
    if q.requires_grad or weight.requires_grad:
        raise ValueError("targets must be detached before the learner's step (invariant 3)")
    log_probs, normalisers = known or (None, None)
    taken = _taken_from(logits, weight)
    return _SoftCrossEntropy.apply(
        logits if logits.ndim == 2 else logits.flatten(0, 1),
        taken(candidates.flatten(0, 1)),
        taken(q.flatten(0, 1)),
        taken(weight.flatten()),
        None if log_probs is None else taken(log_probs.detach().flatten(0, 1)),
        None if normalisers is None else taken(normalisers.detach().flatten()),
    )


def rows_of(logits: Tensor, rows: Int[Tensor, "N"]) -> tuple[Tensor, Int[Tensor, "N"]]:
    """Logits row by row, and which of these rows belong to the predicted positions.

    Args:
        logits: of all positions (B, T, V), or of the predicted ones (N, V).
        rows: numbers of the predicted positions, rising.

    Raises:
        ValueError: they are of another number of positions.
    """
    if logits.ndim != 2:
        return logits.flatten(0, 1), rows
    if len(logits) != len(rows):
        raise ValueError(f"logits of {len(logits)} positions, where {len(rows)} are predicted")
    return logits, torch.arange(len(rows), device=rows.device)


def _taken_from(logits: Tensor, weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Takes of rows of all positions those that the logits are of."""
    if logits.ndim != 2:
        return lambda x: x
    rows = weight.flatten().nonzero().squeeze(-1)
    rows_of(logits, rows)
    return lambda x: x.index_select(0, rows)


def next_token_loss(logits: Tensor, batch: TokenBatch) -> Tensor:
    """Ordinary cross-entropy of the true next tokens, a mean over the predicted positions."""
    candidates, q = one_hot(batch)
    return soft_cross_entropy(logits, candidates, q, weights_of(batch))


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


def weights_of(batch: TokenBatch) -> Tensor:
    """The same for a batch, whose mean may be over other processes' predictions too."""
    if batch.count is None:
        return position_weights(batch.predict)
    return batch.predict.float() / max(batch.count, 1)


def chunk_elements(on: Tensor) -> int:
    """How many numbers are taken at a time on a tensor's device."""
    return CPU_CHUNK_ELEMENTS if on.device.type == "cpu" else CHUNK_ELEMENTS


def rows_a_chunk(logits: Tensor) -> int:
    """How many rows of logits are taken at a time, on their device."""
    return max(1, chunk_elements(logits) // logits.shape[-1])


def row_chunks(logits: Tensor, rows: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Rows of logits, as many as are taken at a time: their numbers, and they themselves.

    On a CPU rows that stand side by side are a view: what is not copied is read once. They are not
    to be written to.

    Args:
        logits: rows of logits.
        rows: the numbers of those to take, rising.
    """
    for part in rows.split(rows_a_chunk(logits)):
        place = _side_by_side(part)
        yield part, logits.index_select(0, part) if place is None else logits[place]


def _side_by_side(part: Tensor) -> slice | None:
    """The slice of these rows, if it is one and the host may know without waiting for a device."""
    if part.device.type != "cpu" or not len(part):
        return None
    first, last = int(part[0]), int(part[-1])
    return slice(first, last + 1) if last - first + 1 == len(part) else None


def _rows_in_place(grad: Tensor, part: Tensor, dtype: torch.dtype) -> Tensor | None:
    """The rows of a gradient to be written to where they are; None where they have to be copied."""
    place = _side_by_side(part)
    return None if place is None or grad.dtype != dtype else grad[place]


def _log_probs(logits: Tensor, ids: Tensor) -> Tensor:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.gather(-1, ids) - wide.logsumexp(-1, keepdim=True)


class _SoftCrossEntropy(torch.autograd.Function):
    """Keeps the logits (which the learner's graph holds anyway) and one logsumexp a row."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        ids: Tensor,
        q: Tensor,
        weight: Tensor,
        log_probs: Tensor | None,
        normalisers: Tensor | None,
    ) -> Tensor:
        dtype = torch.promote_types(logits.dtype, torch.float32)
        rows = weight.nonzero().squeeze(-1)
        q, weight = q.to(dtype), weight.to(dtype)
        if log_probs is None or normalisers is None:
            log_probs, normalisers = _looked_up(logits, ids, rows)
        else:
            log_probs, normalisers = log_probs[rows], normalisers[rows]
        ctx.save_for_backward(logits, ids, q, weight, rows, normalisers)
        return -(weight[rows] * (q[rows] * log_probs).sum(-1)).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]  once_differentiable hides the names
        logits, ids, q, weight, rows, normalisers = ctx.saved_tensors
        whole = len(rows) == len(logits)
        grad = torch.empty_like(logits) if whole else torch.zeros_like(logits)
        parts = row_chunks(logits, rows)
        for (part, own), lse in zip(parts, normalisers.split(rows_a_chunk(logits)), strict=True):
            scale = (weight[part] * upstream)[:, None]
            inside = _rows_in_place(grad, part, lse.dtype)
            share = torch.sub(own.to(lse.dtype), lse[:, None], out=inside).exp_()
            share *= scale * q[part].sum(-1, keepdim=True)
            share.scatter_add_(-1, ids[part], -scale * q[part])
            if inside is None:
                grad.index_copy_(0, part, share.to(grad.dtype))
        return grad, None, None, None, None, None


def _looked_up(logits: Tensor, ids: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """log p of the candidates and the logsumexp, in the rows alone; one pass over their logits."""
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probs, normalisers = [], []
    for part, own in row_chunks(logits, rows):
        wide = own.to(dtype)
        lse = wide.logsumexp(-1)
        log_probs.append(wide.gather(-1, ids[part]) - lse[:, None])
        normalisers.append(lse)
    return torch.cat(log_probs), torch.cat(normalisers)
