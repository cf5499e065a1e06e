"""Computes candidate tokens and the learner's probabilities of them, for the designer's task.

Computed once at theta_t from the learner's own forward, detached, and held constant through an
estimate, so that the objective is an honest function of phi alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from vfunc.errors import UserError
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.soft_loss import row_chunks, rows_a_chunk, rows_of
from vfunc.typecheck import typed

GROUP = 32
"""Entries of a group of `largest`."""


@dataclass(frozen=True)
class Observation:
    """The candidate set C_t of each position and the learner's probabilities, all detached.

    Positions that are not predicted hold the next token K times and zeros.

    Attributes:
        candidates: the true token w_t first, then the learner's top K - 1 others, best first.
        log_probs: the learner's log-probabilities of the candidates, over the full vocabulary.
        entropy: entropy of the learner's full distribution, in nats.
        normaliser: logsumexp of the learner's logits, for a loss on the same forward.
        hidden: the learner's hidden state at each position, which has read its token and those
            before; None where the designer does not look at it.
    """

    candidates: Int[Tensor, "B T K"]
    log_probs: Float[Tensor, "B T K"]
    entropy: Float[Tensor, "B T"]
    normaliser: Float[Tensor, "B T"]
    hidden: Float[Tensor, "B T D"] | None = None

    def first(self, count: int) -> Observation:
        """That of the first positions of each sequence, so many at most, not copied."""
        return Observation(
            self.candidates[:, :count],
            self.log_probs[:, :count],
            self.entropy[:, :count],
            self.normaliser[:, :count],
            None if self.hidden is None else self.hidden[:, :count],
        )


@dataclass(frozen=True)
class ObservedBatch:
    """An unlabeled batch B_u with the learner's candidates and probabilities at theta_t.

    Attributes:
        batch: the sequences.
        observation: candidates and features.
        edge: the hidden state that enters the first block of S (see `vfunc.split`), detached;
            None where it is not known or the learner is not split.
    """

    batch: TokenBatch
    observation: Observation
    edge: Float[Tensor, "B T D"] | None = None

    def first_tokens(self, count: int) -> ObservedBatch:
        """The first tokens of each sequence, so many at most, not copied."""
        edge = None if self.edge is None else self.edge[:, : count - 1]
        seen = self.observation.first(count - 1)
        return ObservedBatch(self.batch.first_tokens(count), seen, edge)


@typed
def observe(logits: Float[Tensor, "*rows V"], batch: TokenBatch, top_k: int) -> Observation:
    """Candidates and features from the learner's logits on `batch`.

    Args:
        logits: the learner's output on `batch.inputs`, at all positions or at the predicted ones.
        batch: source of the true next tokens and of the predicted positions.
        top_k: K, the size of the candidate set, true token included.

    Returns:
        The observation, detached.

    Raises:
        UserError: K is below 1 or above the vocabulary's size.
    """
    require_top_k(top_k, logits.shape[-1])
    truth = batch.next_tokens.flatten()
    rows = batch.predicted_rows
    flat, places = rows_of(logits.detach(), rows)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    candidates = truth[:, None].expand(-1, top_k).clone()
    log_probs = torch.zeros(candidates.shape, dtype=dtype, device=logits.device)
    entropy = torch.zeros(truth.shape, dtype=dtype, device=logits.device)
    normaliser = torch.zeros_like(entropy)
    chunks = row_chunks(flat, places)
    for part, (_, chunk) in zip(rows.split(rows_a_chunk(flat)), chunks, strict=True):
        wide = chunk.to(dtype)
        best = largest(wide, top_k)
        top = wide.gather(-1, best[:, :1])
        below = wide - top
        share = below.exp()  # one exponential an entry serves normaliser and entropy
        total = share.sum(-1)
        lse = total.log() + top.squeeze(-1)
        chosen = _true_token_first(best, truth[part])
        candidates[part] = chosen
        log_probs[part] = wide.gather(-1, chosen) - lse[:, None]
        entropy[part] = total.log() - below.mul_(share).sum(-1) / total
        normaliser[part] = lse
    shape = batch.predict.shape
    return Observation(
        candidates.view(*shape, top_k),
        log_probs.view(*shape, top_k),
        entropy.view(shape),
        normaliser.view(shape),
    )


def largest(rows: Float[Tensor, "N V"], k: int) -> Int[Tensor, "N k"]:
    """Where the k largest entries of each row are, the largest first.

    On a CPU they are sought among the entries that reach the k-th largest of the maxima of groups
    of entries: each of the k groups above has one at least, so that the k largest are among them,
    and in most rows few others. Which of equal entries come in is not specified, as with
    `torch.topk`.
    """
    count, size = rows.shape
    if rows.device.type != "cpu" or k * GROUP * 2 > size or not count:
        return rows.topk(k, -1).indices
    entries = rows.detach().numpy()  # whose selections are several times as fast as torch's here
    whole = size - size % GROUP
    # a group is every (V / 32)-th entry, so that maxima are of stretches of memory
    maxima = entries[:, :whole].reshape(count, GROUP, -1).max(1)
    maxima = np.concatenate([maxima, entries[:, whole:]], -1)
    last = maxima.shape[-1] - k
    bound = np.partition(maxima, last, -1)[:, last, None]
    places = np.flatnonzero(entries >= bound)
    row = places // size
    found = np.bincount(row, minlength=count)
    if found.min() < k or len(places) > count * k * GROUP:  # what is no number, or many ties
        return rows.topk(k, -1).indices
    order = np.lexsort((-entries.ravel()[places], row))  # by rows, the largest first
    first = found.cumsum() - found
    best = places[order[first[:, None] + np.arange(k)]]
    return torch.from_numpy(best - np.arange(count)[:, None] * size)


def require_top_k(top_k: int, vocabulary: int) -> None:
    """Check that a candidate set of K tokens exists.

    Raises:
        UserError: it does not.
    """
    if not 1 <= top_k <= vocabulary:
        raise UserError(
            f"--top-k {top_k} does not fit the learner's vocabulary of {vocabulary} tokens; "
            f"give 1 to {vocabulary}"
        )


def _true_token_first(best: Tensor, truth: Tensor) -> Tensor:
    """Put the true token in front; without it among the best, the last of them gives way."""
    is_true = best == truth[:, None]
    absent = ~is_true.any(-1)
    best = best.clone()
    best[:, -1] = torch.where(absent, truth, best[:, -1])
    is_true[:, -1] |= absent
    return best.gather(-1, (~is_true).byte().argsort(dim=-1, stable=True))
