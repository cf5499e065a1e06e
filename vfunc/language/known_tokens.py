"""Holds a tokenizer's ids to the learner's embedding: end of text, padding, and the data."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.errors import UserError


def with_end_and_padding(
    name: str, learner: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> None:
    """Give a tokenizer an end-of-text and a padding token that the learner has rows for.

    A tokenizer without an end takes the one of the learner's configuration. Padding is never
    predicted nor attended to, so any token will do: where there is none, or one beyond the
    embedding, it is the end.

    Args:
        name: the learner's, for messages.
        learner: the learner.
        tokenizer: its tokenizer, changed in place.

    Raises:
        UserError: no end of text, or one that the learner has no row for.
    """
    rows = vocabulary(learner)
    if tokenizer.eos_token_id is None:
        end = _own_end(learner, tokenizer)
        if end is None:
            raise UserError(
                f"the learner {name!r} has a tokenizer without an end-of-text token; set eos_token "
                "in its tokenizer_config.json"
            )
        tokenizer.eos_token = end
    end_id = tokenizer.eos_token_id
    if not (isinstance(end_id, int) and 0 <= end_id < rows):
        raise UserError(
            f"the learner {name!r} has an embedding of {rows} rows, and its tokenizer's "
            f"end-of-text token {tokenizer.eos_token!r} is number {end_id}; give the learner its "
            "own tokenizer, or resize its embedding"
        )
    pad = tokenizer.pad_token_id
    if not (isinstance(pad, int) and 0 <= pad < rows):
        tokenizer.pad_token = tokenizer.eos_token


def vocabulary(learner: PreTrainedModel) -> int:
    """The number of tokens that a learner has rows for."""
    embedding: Any = learner.get_input_embeddings()
    return int(embedding.num_embeddings)


def require_known(ids: Iterable[int], rows: int, where: str, tokenizer: Any) -> None:
    """Refuse data with a token that the learner has no row for.

    Args:
        ids: tokens, or the largest of each text.
        rows: rows of the learner's embedding.
        where: name of the split.
        tokenizer: the tokenizer, to name the token.

    Raises:
        UserError: there is one.
    """
    largest = max(ids, default=0)
    if largest >= rows:
        token = tokenizer.convert_ids_to_tokens(largest)
        raise UserError(
            f"the {where} data hold the token {token!r}, number {largest}, and the learner's "
            f"embedding has {rows} rows: the tokenizer is not the learner's; resize the embedding"
        )


def _own_end(learner: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str | None:
    for settings in (learner.generation_config, learner.config.get_text_config()):
        number = getattr(settings, "eos_token_id", None)
        number = number[0] if isinstance(number, list) and number else number
        if isinstance(number, int) and 0 <= number < min(vocabulary(learner), len(tokenizer)):
            token = tokenizer.convert_ids_to_tokens(number)
            if isinstance(token, str):
                return token
    return None
