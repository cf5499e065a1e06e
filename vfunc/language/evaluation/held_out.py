"""Computes held-out loss: cross-entropy of the true completion tokens, by example.

Tokens that a pattern covers are measured apart, from the same logits: their loss, and how often the
likeliest token is the true one where all before it are given.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from vfunc.forward_pass import autocast
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.soft_loss import (
    candidate_log_probs,
    row_chunks,
    rows_a_chunk,
    rows_of,
)
from vfunc.language.trimmed.trim import WHOLE, Trim
from vfunc.learner import mode


@dataclass(frozen=True)
class Covered:
    """The tokens that a pattern covers, by example, in the batches' order.

    Attributes:
        losses: the sum of their losses.
        hits: how many of them are the likeliest token.
        tokens: how many there are.
    """

    losses: tuple[float, ...]
    hits: tuple[int, ...]
    tokens: tuple[int, ...]

    @property
    def loss(self) -> float:
        """Mean over all of them."""
        return sum(self.losses) / sum(self.tokens)

    @property
    def accuracy(self) -> float:
        """Share of them that are the likeliest token."""
        return sum(self.hits) / sum(self.tokens)

    def by_example(self) -> tuple[tuple[float | None, ...], tuple[float | None, ...]]:
        """Mean loss and accuracy of each example; None where it has no such token."""
        losses, hits = (
            tuple(x / n if n else None for x, n in zip(numbers, self.tokens, strict=True))
            for numbers in (self.losses, self.hits)
        )
        return losses, hits


@dataclass(frozen=True)
class HeldOut:
    """Losses on examples the learner never trains on, in nats.

    Attributes:
        per_example: mean loss a predicted token, one number an example, in the batches' order.
        tokens: predicted tokens of each example.
        covered: what is measured apart, by the pattern's name.
    """

    per_example: tuple[float, ...]
    tokens: tuple[int, ...]
    covered: Mapping[str, Covered] = field(default_factory=dict)

    @property
    def loss(self) -> float:
        """Mean over all predicted tokens."""
        pairs = zip(self.per_example, self.tokens, strict=True)
        return sum(loss * n for loss, n in pairs) / sum(self.tokens)


def held_out_loss(
    learner: torch.nn.Module,
    batches: Iterable[TokenBatch],
    device: torch.device,
    dtype: torch.dtype | None = None,
    patterns: Mapping[str, Sequence[Bool[Tensor, "B T"]]] | None = None,
    trim: Trim = WHOLE,
) -> HeldOut:
    """Evaluate the learner without dropout; its mode is left as it was.

    Args:
        learner: a causal language model, `learner(input_ids=...)` giving `.logits`.
        batches: batches that hold every example once.
        device: the learner's device.
        dtype: dtype of autocast, or None.
        patterns: which predictions to measure apart, a mask for each batch, by a name.
        trim: what the learner's forward can do without.

    Returns:
        Losses, in the order of the batches.
    """
    losses: list[float] = []
    counts: list[int] = []
    rows: dict[str, list[tuple[float, int, int]]] = {name: [] for name in patterns or {}}
    with torch.no_grad(), mode(learner, training=False):
        for number, cpu_batch in enumerate(batches):
            batch = cpu_batch.to(device)
            predicted, below = batch.predicted_rows, batch.below
            with autocast(device, dtype), trim.applied(learner, predicted, below):
                logits = learner(input_ids=batch.inputs, use_cache=False).logits
            per_token = _token_losses(logits, batch)
            n = batch.predict.sum(-1)
            losses += (per_token.sum(-1) / n).tolist()
            counts += n.tolist()
            masks = {name: masks[number].to(device) for name, masks in (patterns or {}).items()}
            for name, found in _covered(logits, batch, per_token, masks).items():
                rows[name] += found
    covered = {name: Covered(*map(tuple, zip(*found, strict=True))) for name, found in rows.items()}
    return HeldOut(tuple(losses), tuple(counts), covered)


def _covered(
    logits: Tensor, batch: TokenBatch, per_token: Tensor, masks: Mapping[str, Tensor]
) -> dict[str, list[tuple[float, int, int]]]:
    """Loss, hits and number of the covered tokens of each row; logits are looked at there alone."""
    if not masks:
        return {}
    masks = {name: mask & batch.predict for name, mask in masks.items()}
    somewhere = torch.stack(tuple(masks.values())).any(0)
    predicted = batch.predicted_rows
    flat, places = rows_of(logits, predicted)
    chosen = somewhere.flatten()[predicted].nonzero().squeeze(-1)
    true = batch.next_tokens.flatten()
    hits = torch.zeros_like(true, dtype=torch.bool)
    parts = predicted[chosen].split(rows_a_chunk(flat))
    for part, (_, own) in zip(parts, row_chunks(flat, places[chosen]), strict=True):
        hits[part] = own.argmax(-1) == true[part]
    hits = hits.view(somewhere.shape)
    found: dict[str, list[tuple[float, int, int]]] = {}
    for name, mask in masks.items():
        sums = (per_token.where(mask, 0.0).sum(-1), (hits & mask).sum(-1), mask.sum(-1))
        found[name] = list(zip(*(numbers.tolist() for numbers in sums), strict=True))
    return found


def _token_losses(logits: Tensor, batch: TokenBatch) -> Tensor:
    weight = batch.predict.to(torch.float32)
    return -candidate_log_probs(logits, batch.next_tokens.unsqueeze(-1), weight).squeeze(-1)
