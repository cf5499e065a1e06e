"""Log-likelihoods of continuations, as EleutherAI's harness computes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.language.evaluation.generation import context_of
from vfunc.learner import mode
from vfunc.typecheck import typed

Pair = tuple[Sequence[int], Sequence[int]]


@typed
def log_likelihoods(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    asked: Sequence[tuple[str, Sequence[str]]],
    *,
    batch_size: int = 16,
) -> tuple[list[list[float]], int]:
    """The log-probability of each continuation of each prompt.

    Prompt and continuation become tokens together, and are taken apart where the prompt's own
    tokens end. What does not fit into the learner's context is cut off on the left. Continuations
    of one token share a forward.

    Args:
        model: a causal language model.
        tokenizer: its tokeniser.
        asked: prompts, none empty, with their continuations.
        batch_size: sequences at a time.

    Returns:
        For each prompt the log-probabilities, in nats, of its continuations; and how many prompts
        were cut.

    Raises:
        UserError: a prompt without tokens, or a continuation without any of its own.
    """
    context = context_of(model)
    pairs: list[list[Pair]] = [
        [_pair(tokenizer, prompt, one) for one in continuations] for prompt, continuations in asked
    ]
    forwards: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    cut = set()
    for number, row in enumerate(pairs):
        for place, (before, after) in enumerate(row):
            whole = [*before, *after]
            if context is not None and len(whole) > context + 1:
                whole = whole[-(context + 1) :]
                cut.add(number)
            forwards.setdefault(tuple(whole[:-1]), []).append((number, place))
    found = [[0.0] * len(row) for row in pairs]
    order = sorted(
        forwards, key=len, reverse=True
    )  # the largest first: what is too large fails now
    with torch.no_grad(), mode(model, training=False):
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            for row, logits in zip(rows, _last_logits(model, rows, pairs, forwards), strict=True):
                for number, place in forwards[row]:
                    after = torch.tensor(pairs[number][place][1], device=logits.device)
                    chosen = logits[-len(after) :].gather(-1, after.unsqueeze(-1))
                    found[number][place] = float(chosen.sum())
    return found, len(cut)


def _last_logits(
    model: PreTrainedModel,
    rows: Sequence[tuple[int, ...]],
    pairs: Sequence[Sequence[Pair]],
    forwards: dict[tuple[int, ...], list[tuple[int, int]]],
) -> list[Tensor]:
    """Log-probabilities at the last positions of each row, as many as its continuations take."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    for place, row in enumerate(rows):  # padded on the right, which no position looks at
        ids[place, : len(row)] = torch.tensor(row)
    output: Any = model(input_ids=ids.to(model.device), use_cache=False)
    needed = [max(len(pairs[n][p][1]) for n, p in forwards[row]) for row in rows]
    return [
        torch.log_softmax(output.logits[place, len(row) - count : len(row)].float(), -1)
        for place, (row, count) in enumerate(zip(rows, needed, strict=True))
    ]


def _pair(tokenizer: PreTrainedTokenizerBase, prompt: str, continuation: str) -> Pair:
    bare = prompt.rstrip()
    continuation, prompt = prompt[len(bare) :] + continuation, bare
    whole = tokenizer.encode(prompt + continuation)
    before = tokenizer.encode(prompt)
    after = whole[len(before) :]
    if not before or not after:
        raise UserError(f"{(prompt + continuation)[-40:]!r} has no token to ask for; lengthen it")
    return before, after
