"""Types of a text example, a prompt and a completion, and of a batch of token sequences."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TypeVar, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from vfunc.processes import Processes

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Example:
    """One text. The learner's loss falls on `completion` alone; raw text has an empty prompt.

    Attributes:
        prompt: text before the completion (a question and its separator); "" for raw text.
        completion: text to predict.
        answer: the checkable final answer, where there is one (never seen by the learner's loss).
        wrong: half-open character spans of `completion` that are known to be mistaken, as only
            generated data can know; empty elsewhere. The end of the text counts as one character
            more: a span that ends at len(completion) + 1 holds the end-of-text token, too.
        domain: number of its source (or style), counted from 0.
        ends: whether raw text ends here; False where the next example goes on with it.
    """

    prompt: str
    completion: str
    answer: str | None = None
    wrong: tuple[tuple[int, int], ...] = ()
    domain: int = 0
    ends: bool = True


@dataclass(frozen=True)
class TokenBatch:
    """Right-padded token sequences, with what is predicted marked.

    Position t reads `tokens[:, t]` and predicts `tokens[:, t + 1]`. Attention is causal and the
    padding is on the right, so that no attention mask is needed.

    Attributes:
        tokens: token ids, B sequences of T + 1 tokens.
        predict: which of the T predictions carry loss (completion tokens, never padding).
        wrong: which of the T predicted tokens are known to be mistaken (all False if unknown).
        domains: the domain of each sequence; None counts as domain 0 throughout.
        count: predictions that a mean over this batch divides by, where other processes hold more
            of it (see `vfunc.processes`); None is its own. Rows of a batch have their own again.
        below: what the learner's frozen blocks make of the inputs (see
            `vfunc.language.trimmed.frozen_part`); None where none are, or it is not known.
    """

    tokens: Int[Tensor, "B T_plus_1"]
    predict: Bool[Tensor, "B T"]
    wrong: Bool[Tensor, "B T"]
    domains: Int[Tensor, "B"] | None = None
    count: int | None = None
    below: Float[Tensor, "B T D"] | None = None

    @property
    def inputs(self) -> Int[Tensor, "B T"]:
        """The tokens that the learner reads."""
        return self.tokens[:, :-1]

    @property
    def next_tokens(self) -> Int[Tensor, "B T"]:
        """The tokens that the learner predicts: the true token w_t of each position."""
        return self.tokens[:, 1:]

    @property
    def predicted_rows(self) -> Int[Tensor, "N"]:
        """The numbers of the predicted positions, where all B T are counted through."""
        return self.predict.flatten().nonzero().squeeze(-1)

    @property
    def lengths(self) -> Int[Tensor, "B"]:
        """Inputs of each text up to the last that predicts: those behind it reach no loss.

        At least 1, on the CPU. Padding may be a token that texts hold, too, so that ids do not mark
        it.
        """
        places = torch.arange(1, self.predict.shape[1] + 1, device=self.predict.device)
        return (self.predict * places).amax(-1).clamp(min=1).cpu()

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        return TokenBatch(
            self.tokens.to(device),
            self.predict.to(device),
            self.wrong.to(device),
            None if self.domains is None else self.domains.to(device),
            self.count,
            None if self.below is None else self.below.to(device),
        )

    def first_tokens(self, count: int) -> TokenBatch:
        """The first tokens of each sequence, so many at most, not copied."""
        inputs = slice(0, count - 1)
        return TokenBatch(
            self.tokens[:, :count],
            self.predict[:, inputs],
            self.wrong[:, inputs],
            self.domains,
            below=None if self.below is None else self.below[:, inputs],
        )

    def among(self, processes: Processes) -> TokenBatch:
        """The same batch as this process's part of one that all processes hold."""
        if processes.alone:
            return self
        (count,) = processes.totals(int(self.predict.sum()))
        return replace(self, count=int(count))


def take_rows(batch: Batch, rows: Int[Tensor, "R"]) -> Batch:
    """Selects sequences of a batch: rows of the tensors of a dataclass.

    Args:
        batch: a `TokenBatch` or a dataclass that holds one; its entries may be None or dataclasses.
        rows: indices of the sequences, perhaps none.
    """
    if isinstance(batch, Tensor):
        return batch.index_select(0, rows.to(batch.device))
    if batch is None or isinstance(batch, int):
        return cast("Batch", None)
    assert is_dataclass(batch) and not isinstance(batch, type)
    taken = {field.name: take_rows(getattr(batch, field.name), rows) for field in fields(batch)}
    return type(batch)(**taken)


def first_rows(batch: Batch, count: int) -> Batch:
    """The first sequences of a batch, not copied.

    Args:
        batch: a `TokenBatch` or a dataclass that holds one; its entries may be None or dataclasses.
        count: how many.
    """
    if isinstance(batch, Tensor):
        return cast("Batch", batch[:count])
    if batch is None or isinstance(batch, int):
        return cast("Batch", None)
    assert is_dataclass(batch) and not isinstance(batch, type)
    taken = {field.name: first_rows(getattr(batch, field.name), count) for field in fields(batch)}
    return type(batch)(**taken)
