"""Encodes text examples as token sequences.

Prompt and completion are tokenised apart and then joined. A tokeniser run over the joined text may
merge characters across the border, and generation, which is given the prompt alone, would then
start from other tokens than training did. Every sequence ends in the end-of-text token unless it
was cut; the loss falls on the completion and on that token.

A sequence of T predictions has T + 1 tokens. Raw text longer than that is cut into consecutive
sequences, each starting with the last token of the one before, so that every token of a document
but its first is predicted exactly once. Documents are not packed together: a sequence never
attends to another document.

Everything is encoded at once, before training: the order of a stream is a permutation of its
sequences, whose number has to be known. 19 million characters take about 10 s on one core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from jaxtyping import Bool, Int
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.language.data.examples import Example
from vfunc.typecheck import typed

NO_COMPLETION = "no completion tokens"
NO_ROOM = "no room for the completion"

_BLOCK = 64  # examples encoded at a time: bounds the memory that Python integers take


@dataclass(frozen=True, eq=False)
class Encoded:
    """One token sequence.

    Attributes:
        tokens: L token ids (int32), at least two.
        predict_from: index of the first token that is predicted, from 1 to L - 1; every later one
            is predicted too.
        wrong: which tokens are known to be mistaken.
        domain: its example's domain.
    """

    tokens: Int[Tensor, "L"]
    predict_from: int
    wrong: Bool[Tensor, "L"]
    domain: int = 0


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """The sequences of a data set, at least one.

    Attributes:
        sequences: sequences in the order of the examples.
        dropped: numbers of examples left out in reading and encoding, by reason.
        truncated: number of completions cut to fit (raw text is never cut short).
        pad_id: token id of padding.
    """

    sequences: tuple[Encoded, ...]
    dropped: dict[str, int]
    truncated: int
    pad_id: int

    def __len__(self) -> int:
        return len(self.sequences)


@typed
def encode_examples(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    *,
    split: str = "stream",
    dropped: Mapping[str, int] | None = None,
) -> EncodedSet:
    """Encode examples, a batch at a time.

    Args:
        examples: text examples.
        tokenizer: the learner's tokeniser.
        sequence_length: T, largest number of predictions in a sequence (T + 1 tokens).
        split: name of the split, for messages.
        dropped: numbers of examples that reading left out, added to the count.

    Returns:
        The sequences, and the numbers of dropped and truncated examples.

    Raises:
        UserError: no sequence is left, the tokeniser has no end-of-text token, or mistaken spans
            are given and the tokeniser cannot place characters.
    """
    if sequence_length < 1:
        raise UserError(f"sequence length {sequence_length}: at least 1 token must be predicted.")
    end_of_text(tokenizer)  # refused before the work
    counts = Counter(dropped or {})
    sequences: list[Encoded] = []
    truncated = 0
    for whole, cut in _encodings(examples, tokenizer, sequence_length):
        if isinstance(whole, str):
            counts[whole] += 1
        else:
            sequences += whole
            truncated += cut
    if not sequences:
        why = ", ".join(f"{count} with {reason}" for reason, count in counts.items())
        remedy = "; raise the sequence length" if NO_ROOM in counts else ""
        raise UserError(
            f"the {split} data hold no example to use"
            + (f": dropped {why} (sequence length {sequence_length}){remedy}." if why else ".")
        )
    pad = tokenizer.pad_token_id
    pad_id = pad if isinstance(pad, int) else end_of_text(tokenizer)
    return EncodedSet(tuple(sequences), dict(counts), truncated, pad_id)


def end_of_text(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that ends a text.

    Raises:
        UserError: the tokeniser has none.
    """
    end = tokenizer.eos_token_id
    if not isinstance(end, int):
        raise UserError("the tokeniser has no end-of-text token (eos_token); set one.")
    return end


@typed
def encode(
    example: Example, tokenizer: PreTrainedTokenizerBase, sequence_length: int
) -> tuple[Encoded, ...] | str:
    """Encode one example as one sequence, long raw text as several; or the reason to drop it."""
    return next(_encodings([example], tokenizer, sequence_length))[0]


@typed
def prompt_tokens(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The tokens before each completion, in training and in generation alike.

    A tokeniser that opens every text with a beginning-of-text token does so here too.
    """
    opening = tokenizer("")["input_ids"][:1]
    prefix = list(opening) if opening and opening[0] == tokenizer.bos_token_id else []
    return [prefix + ids for ids, _ in _tokenise(prompts, tokenizer, offsets=False)]


def _encodings(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, sequence_length: int
) -> Iterator[tuple[tuple[Encoded, ...] | str, bool]]:
    """For every example its sequences, or the reason to drop it; and whether it was cut."""
    for start in range(0, len(examples), _BLOCK):
        block = examples[start : start + _BLOCK]
        prompts = prompt_tokens([example.prompt for example in block], tokenizer)
        completions = _tokenise(
            [example.completion for example in block],
            tokenizer,
            offsets=any(example.wrong for example in block),
        )
        for example, prompt, (completion, offsets) in zip(block, prompts, completions, strict=True):
            if not completion:
                yield NO_COMPLETION, False
                continue
            tokens = torch.tensor([*prompt, *completion, tokenizer.eos_token_id], dtype=torch.int32)
            wrong = torch.zeros(len(tokens), dtype=torch.bool)
            if example.wrong:
                wrong[len(prompt) : -1] = _overlapping(offsets, example.wrong)
            window = slice(0, sequence_length + 1)
            if not example.prompt:
                yield _consecutive(tokens, wrong, sequence_length, example.domain), False
            elif len(prompt) > sequence_length:
                yield NO_ROOM, False
            else:
                first = max(len(prompt), 1)
                sequence = Encoded(tokens[window], first, wrong[window], example.domain)
                yield (sequence,), len(tokens) > sequence_length + 1


def _consecutive(
    tokens: Int[Tensor, "L"], wrong: Bool[Tensor, "L"], sequence_length: int, domain: int
) -> tuple[Encoded, ...]:
    """Raw text as sequences that overlap by one token: what one predicts last, the next reads."""
    starts = range(0, len(tokens) - 1, sequence_length)
    windows = [slice(at, at + sequence_length + 1) for at in starts]
    return tuple(Encoded(tokens[window], 1, wrong[window], domain) for window in windows)


def _overlapping(
    offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> Bool[Tensor, "L"]:
    """Which tokens share a character with a span."""
    begin, end = torch.tensor(offsets).unbind(1)
    wrong = torch.zeros(len(offsets), dtype=torch.bool)
    for first, last in spans:
        wrong |= (begin < last) & (end > first)
    return wrong


def _tokenise(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, offsets: bool
) -> list[tuple[list[int], Sequence[tuple[int, int]]]]:
    """The ids of each text without special tokens, and each token's half-open character span."""
    if not tokenizer.is_fast:
        if offsets:
            raise UserError(
                f"{type(tokenizer).__name__} does not tell where a token stands in the text, which "
                "known mistakes and --measure-tokens need; use a fast tokeniser."
            )
        rows = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"]
        return [(ids, ()) for ids in rows]
    # The batch call of the tokeniser underneath takes half the time of transformers' own, which
    # sets these two in the same way at every call.
    backend = cast("Tokenizer", tokenizer.backend_tokenizer)  # typed by fast tokenisers alone
    backend.no_padding()
    backend.no_truncation()
    if not offsets:
        rows = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return [(encoding.ids, ()) for encoding in rows]
    # Without special tokens a post-processor only trims the offsets: a token would no longer
    # cover its own leading space, and one of spaces would cover nothing.
    trimming = backend.post_processor
    setattr(backend, "post_processor", None)  # noqa: B010  its stub leaves out None
    try:
        rows = backend.encode_batch(list(texts), add_special_tokens=False)
    finally:
        backend.post_processor = trimming
    return [(encoding.ids, encoding.offsets) for encoding in rows]
