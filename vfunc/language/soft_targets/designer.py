"""Task designer of language: a compact causal transformer for candidate scores and gates."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from vfunc.conditions import EMBEDDED_LEARNER
from vfunc.config.declared import HIDDEN, Cases, Need, option
from vfunc.designer_file import read_designer
from vfunc.errors import UserError
from vfunc.language.data.examples import TokenBatch
from vfunc.language.hidden_state import HiddenState
from vfunc.language.soft_targets.candidates import Observation
from vfunc.language.soft_targets.targets import TargetForm, candidate_distribution, gate

Features = Literal[True, False, "hidden"]
PROJECTED = 12
"""Numbers that a hidden state is projected to."""

_OWN_BLOCKS = Need(
    lambda options: options["designer_features"] != "hidden",
    "with --designer-features hidden the designer has no blocks of its own",
)


@dataclass(frozen=True)
class DesignerConfig:
    """Size, inputs and outputs of a `TopKDesigner`.

    Attributes:
        vocabulary: number of the learner's tokens.
        target: the form of its targets.
        width: width of the residual stream.
        layers: number of transformer blocks.
        heads: attention heads; they divide the width.
        features: whether it sees the learner's log-probabilities and entropy; `hidden` is these
            and the learner's hidden state, in place of embeddings and blocks of its own.
        gate_start: the gate's first logit; -2 is a gate of about 0.12 alpha_max.
        hidden: where that hidden state is.
    """

    vocabulary: int = field(metadata=HIDDEN)
    target: TargetForm
    width: int = option(
        "Hidden size.",
        name="designer_width",
        default=Cases(((EMBEDDED_LEARNER, 48),), 256),
        least=2,
        most=65536,
    )
    layers: int = option(
        "Transformer blocks.",
        name="designer_layers",
        default=Cases(((EMBEDDED_LEARNER, 1),), 6),
        least=1,
        most=256,
        needs=(_OWN_BLOCKS,),
    )
    heads: int = option(
        "Attention heads; they divide the width.",
        name="designer_heads",
        default=4,
        least=1,
        needs=(_OWN_BLOCKS,),
    )
    features: Features = option(
        "Let the designer see the learner's log-probabilities of the candidates; hidden: and its "
        "hidden state before and after the token, in place of embeddings and blocks of its own, "
        "where S begins (or halfway up, where that is the first block).",
        name="designer_features",
        default=True,
        kind=Features,
    )
    gate_start: float = option(default=-2.0, hidden=True)
    hidden: HiddenState | None = option(default=None, hidden=True)

    def __post_init__(self) -> None:
        if min(self.width, self.layers, self.heads, self.vocabulary) < 1:
            raise UserError("the designer's width, layers, heads and vocabulary must be positive")
        if (self.features == "hidden") != (self.hidden is not None):
            raise UserError("features 'hidden' and the place of the hidden state go together")
        if self.features != "hidden" and (self.width % self.heads or self.width % 2):
            raise UserError(
                f"the designer's width {self.width} must be even and divisible by its "
                f"{self.heads} heads"
            )


class TopKDesigner(nn.Module):
    """phi: (tokens, the learner's probabilities) -> (r, alpha) at every position.

    The paper's TopKAugmentor: decoder-only, float32 whatever the learner's precision, and scoring
    only the candidates. At position t it sees the tokens up to t, the true next token w_t, and
    (with `features`) the learner's detached log-probabilities of the candidates and entropy.

    With `hidden` it is no transformer: context and token are the learner's hidden states at t, and
    at t + 1, which has read w_t; each is layer-normed and projected to 12 numbers. With the
    log-probabilities at their own size they enter one hidden layer. The last token of a text has
    no state after it: zeros stand in its place.
    """

    def __init__(self, config: DesignerConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        if config.hidden is not None:
            self._make_hidden(config, config.hidden)
            return
        self.embedding = nn.Embedding(config.vocabulary, width)
        block = nn.TransformerEncoderLayer(
            width,
            config.heads,
            4 * width,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.trunk = nn.TransformerEncoder(
            block, config.layers, norm=nn.LayerNorm(width), enable_nested_tensor=False
        )
        learner = 4 if config.features else 0
        hidden, logit = nn.Linear(2 * width + learner, width), nn.Linear(width, 1)
        self.gate = nn.Sequential(hidden, nn.GELU(), logit)
        nn.init.constant_(logit.bias, config.gate_start)
        if config.target.scores_candidates:
            self.query = nn.Linear(width, width)
            self.key = nn.Linear(width + (3 if config.features else 1), width)

    def _make_hidden(self, config: DesignerConfig, hidden: HiddenState) -> None:
        self.before = nn.Linear(hidden.width, PROJECTED)
        self.after = nn.Linear(hidden.width, PROJECTED)
        width, seen = config.width, 2 * PROJECTED + 4
        logit = nn.Linear(width, 1)
        self.gate = nn.Sequential(nn.Linear(seen, width), nn.GELU(), logit)
        nn.init.constant_(logit.bias, config.gate_start)
        if config.target.scores_candidates:
            self.embedding = nn.Embedding(config.vocabulary, width)
            self.query = nn.Linear(seen, width)
            self.key = nn.Linear(width + 3, width)

    def forward(
        self, batch: TokenBatch, observation: Observation
    ) -> tuple[Float[Tensor, "B T K"], Float[Tensor, "B T"]]:
        """(r, alpha) of each position."""
        log_probs = observation.log_probs.float()
        if self.config.hidden is None:
            context = self._context(batch)
            seen = [context, self.embedding(batch.next_tokens)]
        else:
            context, seen = None, self._states(batch, observation)
        if self.config.features:
            seen.append(_learner_features(log_probs, observation.entropy.float()))
        everything = torch.cat(seen, -1)
        logit = self.gate(everything).squeeze(-1)
        context = everything if context is None else context
        scores = self._scores(context, observation, log_probs)
        target = self.config.target
        return candidate_distribution(target, log_probs, scores), gate(target, logit)

    def _states(self, batch: TokenBatch, observation: Observation) -> list[Tensor]:
        """The learner's hidden states before and after the token, projected."""
        if observation.hidden is None:
            raise UserError("the designer looks at the learner's hidden state, and there is none")
        weight = self.before.weight
        states = observation.hidden.detach().to(weight.dtype)
        states = F.layer_norm(states, states.shape[-1:])
        predict = batch.predict.to(torch.int32)
        goes_on = (predict.flip(1).cumsum(1).flip(1) - predict) > 0  # the text, after this token
        later = F.pad(states[:, 1:], (0, 0, 0, 1)) * goes_on.unsqueeze(-1)
        return [self.before(states), self.after(later)]

    def _context(self, batch: TokenBatch) -> Tensor:
        tokens = batch.inputs
        length = tokens.shape[1]
        x = self.embedding(tokens) + _positions(length, self.config.width, tokens.device)
        mask = nn.Transformer.generate_square_subsequent_mask(length, device=tokens.device)
        return self.trunk(x, mask=mask, is_causal=True)

    def _scores(
        self, context: Tensor, observation: Observation, log_probs: Tensor
    ) -> Tensor | None:
        """Dot products of a context's query with its candidates' keys, from log p where seen."""
        if not self.config.target.scores_candidates:
            return None
        is_true = torch.zeros_like(log_probs)
        is_true[..., 0] = 1.0
        seen = [self.embedding(observation.candidates), is_true.unsqueeze(-1)]
        if self.config.features:
            seen += [log_probs.unsqueeze(-1), log_probs.exp().unsqueeze(-1)]
        keys = self.key(torch.cat(seen, -1))
        scores = einsum(self.query(context), keys, "b t d, b t k d -> b t k")
        scores = scores / math.sqrt(self.config.width)
        # a free r starts at the learner's own distribution, and may go anywhere from there
        starts_at_learner = self.config.features and self.config.target.form == "free"
        return scores + log_probs if starts_at_learner else scores


def _learner_features(log_probs: Tensor, entropy: Tensor) -> Tensor:
    """log p and p of the true token, the entropy, the best log p."""
    truth = log_probs[..., 0]
    return torch.stack([truth, truth.exp(), entropy, log_probs.max(-1).values], -1)


def _positions(length: int, width: int, device: torch.device) -> Tensor:
    """Sinusoidal positions, of the size of the embedding (any length, no parameters)."""
    rate = torch.exp(torch.arange(0, width, 2, device=device) * (-math.log(10_000.0) / width))
    angle = torch.arange(length, device=device)[:, None] * rate
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(1)


def load_designer(path: Path | str) -> TopKDesigner:
    """Read a designer that `vfunc.designer_file.save_designer` wrote.

    Raises:
        UserError: the file is missing, damaged, or holds something else.
    """

    def make(config: dict[str, Any]) -> TopKDesigner:
        target = TargetForm(**config.pop("target"))
        if hidden := config.pop("hidden", None):
            config["hidden"] = HiddenState(**hidden)
        return TopKDesigner(DesignerConfig(target=target, **config))

    return read_designer(path, TopKDesigner, make)
