"""Computes held-out loss: cross-entropy of the true completion tokens, by example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.forward_pass import autocast
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_targets.soft_loss import candidate_log_probs
from vfunc.learner import mode


@dataclass(frozen=True)
class HeldOut:
    """Losses on examples the learner never trains on, in nats.

    Attributes:
        per_example: mean loss a predicted token, one number an example, in the batches' order.
        tokens: predicted tokens of each example.
    """

    per_example: tuple[float, ...]
    tokens: tuple[int, ...]

    @property
    def loss(self) -> float:
        """Mean over all predicted tokens."""
        pairs = zip(self.per_example, self.tokens, strict=True)
        return sum(loss * n for loss, n in pairs) / sum(self.tokens)


def held_out_loss(
    learner: torch.nn.Module,
    batches: Sequence[TokenBatch],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> HeldOut:
    """Evaluate the learner without dropout; its mode is left as it was.

    Args:
        learner: a causal language model, `learner(input_ids=...)` giving `.logits`.
        batches: batches that hold every example once.
        device: the learner's device.
        dtype: dtype of autocast, or None.

    Returns:
        Losses, in the order of the batches.
    """
    losses: list[float] = []
    counts: list[int] = []
    with torch.no_grad(), mode(learner, training=False):
        for cpu_batch in batches:
            batch = cpu_batch.to(device)
            with autocast(device, dtype):
                logits = learner(input_ids=batch.inputs, use_cache=False).logits
            per_token = _token_losses(logits, batch)
            n = batch.predict.sum(-1)
            losses += (per_token.sum(-1) / n).tolist()
            counts += n.tolist()
    return HeldOut(tuple(losses), tuple(counts))


def _token_losses(logits: Tensor, batch: TokenBatch) -> Tensor:
    weight = batch.predict.to(torch.float32)
    return -candidate_log_probs(logits, batch.next_tokens.unsqueeze(-1), weight).squeeze(-1)
