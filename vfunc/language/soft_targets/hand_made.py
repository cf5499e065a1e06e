"""Fixed rules for targets, which designers are compared with.

All of them are q = (1 - alpha) onehot(w_t) + alpha r on the same candidates, through the same loss.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from vfunc.errors import UserError
from vfunc.language.soft_targets.candidates import ObservedBatch
from vfunc.language.soft_targets.targets import mix
from vfunc.typecheck import typed

HAND_MADE = ("uniform_smoothing", "self_distillation", "confidence_gate", "known_wrong")


@typed
def hand_made_targets(
    arm: str, observed: ObservedBatch, fixed_alpha: float
) -> tuple[Float[Tensor, "B T K"], Float[Tensor, "B T"]]:
    """(q, alpha) of an arm without a designer.

    - `uniform_smoothing`: a fixed alpha, r uniform over the candidates.
    - `self_distillation`: a fixed alpha, r the learner's own top-K probabilities.
    - `confidence_gate`: the same r, alpha = 1 - p(w_t): the learner's own confidence, no feedback.
    - `known_wrong`: the same r, alpha = 1 on tokens known to be mistaken, 0 elsewhere.

    Args:
        arm: one of the names above.
        observed: the batch with the learner's candidates and probabilities.
        fixed_alpha: gate of the first two.

    Returns:
        Soft targets and gates.

    Raises:
        UserError: another arm.
    """
    log_probs = observed.observation.log_probs
    own = log_probs.softmax(-1)
    fixed = torch.full(log_probs.shape[:-1], fixed_alpha, device=log_probs.device).to(own.dtype)
    if arm == "uniform_smoothing":
        return mix(fixed, torch.full_like(own, 1 / own.shape[-1])), fixed
    if arm == "self_distillation":
        return mix(fixed, own), fixed
    if arm == "confidence_gate":
        alpha = 1 - log_probs[..., 0].exp()
        return mix(alpha, own), alpha
    if arm == "known_wrong":
        alpha = observed.batch.wrong.to(own.dtype)
        return mix(alpha, own), alpha
    raise UserError(f"unknown arm {arm!r}; made by hand are {', '.join(HAND_MADE)}")
