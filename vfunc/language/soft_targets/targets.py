"""Forms of soft targets q = (1 - alpha) onehot(w_t) + alpha r (paper, equation 15).

Three forms, by what is learned of r. Over the whole vocabulary sum_k p_k u_k = 0, u_k the value
of a unit of target mass on token k: moving mass to the learner's own distribution costs nothing to
first order, while improbable candidates have the largest |u|, and first-order value draws a free r
to them. Hence:

- `gate`: r = the learner's own top-K probabilities, renormalised; only alpha is learned.
- `bounded`: r = softmax(log p + a learned shift within +-bound).
- `free`: r is learned without a bound: the paper's form.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from vfunc.config.declared import Cases, Condition, Need, option
from vfunc.errors import UserError
from vfunc.language.conditions import EMBEDDED_PROBLEM
from vfunc.typecheck import typed

Form = Literal["gate", "bounded", "free"]
_GATE = Condition("for gate", lambda options: options["targets"] == "gate")
_BOUNDED = Condition("for bounded", lambda options: options["targets"] == "bounded")


@dataclass(frozen=True)
class TargetForm:
    """The learned form of the targets.

    Attributes:
        form: `gate`, `bounded` or `free`.
        alpha_max: the largest gate; alpha lies in [0, alpha_max].
        shift_bound: `bounded`: the largest learned change of a log-probability, in nats.
        gate_bound: the gate's logit stays within +- this, so that the gate can neither die at 0
            nor stick at 1.
    """

    form: Form = option(
        "What is learned of the targets: the gate between text and learner; also a bounded shift "
        "of the learner's probabilities; or a free distribution over candidates (the paper's).",
        name="targets",
        default=Cases(((EMBEDDED_PROBLEM, "gate"),), "free", plain="gate"),
    )
    alpha_max: float = option(
        "Largest share of target mass that may leave the text's own token.",
        default=Cases(((_GATE, 1.0),), 0.5, plain=1.0),
        least=0,
        most=1,
    )
    shift_bound: float = option(
        "Largest shift of a log-probability for --targets bounded, in nats.",
        default=1.0,
        above=0,
        needs=(Need(_BOUNDED.holds, "it is for --targets bounded"),),
    )
    gate_bound: float = option(default=4.0, hidden=True)

    def __post_init__(self) -> None:
        if self.form not in get_args(Form):
            raise UserError(
                f"unknown target form {self.form!r}; known: {', '.join(get_args(Form))}"
            )
        if not 0.0 <= self.alpha_max <= 1.0:
            raise UserError(f"alpha_max must be in [0, 1], not {self.alpha_max}")
        if not (self.shift_bound > 0 and self.gate_bound > 0):
            raise UserError("shift_bound and gate_bound must be positive")

    @property
    def scores_candidates(self) -> bool:
        """Whether the designer has to score the candidates."""
        return self.form != "gate"


@typed
def candidate_distribution(
    form: TargetForm,
    log_probs: Float[Tensor, "B T K"],
    scores: Float[Tensor, "B T K"] | None,
) -> Float[Tensor, "B T K"]:
    """r, a point of the simplex over the candidates.

    Args:
        form: the form.
        log_probs: the learner's log-probabilities of the candidates, detached.
        scores: the designer's scores; None for `gate`, which has none.

    Returns:
        r; sums to 1 over the candidates.
    """
    if scores is None:
        return log_probs.softmax(-1)
    if form.form == "bounded":
        scores = log_probs + form.shift_bound * torch.tanh(scores / form.shift_bound)
    return scores.softmax(-1)


@typed
def gate(form: TargetForm, logit: Float[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """alpha in [0, alpha_max] from a logit that is softly bounded to +- gate_bound."""
    return form.alpha_max * torch.sigmoid(form.gate_bound * torch.tanh(logit / form.gate_bound))


@typed
def mix(alpha: Float[Tensor, "B T"], r: Float[Tensor, "B T K"]) -> Float[Tensor, "B T K"]:
    """q = (1 - alpha) onehot(w_t) + alpha r, the true token being candidate 0.

    alpha = 0 gives the one-hot target exactly.
    """
    a = alpha.unsqueeze(-1)
    truth = torch.zeros_like(r)
    truth[..., 0] = 1.0
    return (1 - a) * truth + a * r
