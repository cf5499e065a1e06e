"""Encodes text examples as token sequences.

Prompt and completion are tokenised apart and then joined. A tokeniser run over the joined text may
merge characters across the border, and generation, which is given the prompt alone, would then
start from other tokens than training did. Every sequence ends in the end-of-text token unless it
was cut; the loss falls on the completion and on that token.

A sequence of T predictions has T + 1 tokens. Raw text longer than that is cut into consecutive
sequences, each starting with the last token of the one before, so that every token of a document
but its first is predicted exactly once. Unless they are to be packed, a sequence never attends to
another document; packed, documents are one long text with the end-of-text token between them, cut
likewise. Examples with a prompt are never packed.

19 million characters take about 10 s on one core.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

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
_BLOCK_TEXT = 2**20  # characters in a block above which it is full


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


@runtime_checkable
class Sequences(Protocol):
    """Sequences by their number: a tuple, or what makes them when they are asked for.

    No `Sequence`, of which checks of types ask for length and entries: an end may be far away.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Encoded: ...

    def __iter__(self) -> Iterator[Encoded]: ...


@dataclass(frozen=True, eq=False)
class EncodedSet:
    """The sequences of a data set, at least one.

    Attributes:
        sequences: sequences in the order of the examples.
        dropped: numbers of examples left out in reading and encoding, by reason.
        truncated: number of completions cut to fit (raw text is never cut short).
        pad_id: token id of padding.
    """

    sequences: Sequences
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
    encoder = Encoder(tokenizer, sequence_length)
    sequences = [found for block in blocks(iter(examples)) for found in encoder.encode(block)]
    counts = Counter(dropped or {}) + encoder.dropped
    if not sequences:
        raise UserError(nothing_to_use(split, counts, sequence_length))
    return EncodedSet(tuple(sequences), dict(counts), encoder.truncated, padding(tokenizer))


def nothing_to_use(split: str, dropped: Mapping[str, int], sequence_length: int) -> str:
    """What to say of data without a sequence."""
    why = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
    remedy = "; raise the sequence length" if NO_ROOM in dropped else ""
    return f"the {split} data hold no example to use" + (
        f": dropped {why} (sequence length {sequence_length}){remedy}." if why else "."
    )


def padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of the token that batches are padded with."""
    pad = tokenizer.pad_token_id
    return pad if isinstance(pad, int) else end_of_text(tokenizer)


def blocks(examples: Iterator[Example]) -> Iterator[list[Example]]:
    """Examples by as many as are encoded at a time; no more are asked for than are given."""
    block: list[Example] = []
    held = 0
    for example in examples:
        block.append(example)
        held += len(example.prompt) + len(example.completion)
        if len(block) == _BLOCK or held >= _BLOCK_TEXT:
            yield block
            block, held = [], 0
    if block:
        yield block


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
    encoder = Encoder(tokenizer, sequence_length)
    found = tuple(encoder.encode([example]))
    return found or next(iter(encoder.dropped))


@typed
def prompt_tokens(prompts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    """The tokens before each completion, in training and in generation alike.

    A tokeniser that opens every text with a beginning-of-text token does so here too.
    """
    opening = tokenizer("")["input_ids"][:1]
    prefix = list(opening) if opening and opening[0] == tokenizer.bos_token_id else []
    return [prefix + ids for ids, _ in _tokenise(prompts, tokenizer, offsets=False)]


class Encoder:
    """An encoder of examples as they come; texts may go on from one block to the next.

    Attributes:
        dropped: numbers of examples left out so far, by reason.
        truncated: completions cut so far.
        packed: whether raw text has been packed.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        sequence_length: int,
        *,
        pack: bool = False,
        carried: Mapping[str, Any] | None = None,
    ) -> None:
        """Look at the tokeniser.

        Args:
            tokenizer: the learner's tokeniser.
            sequence_length: T, largest number of predictions in a sequence.
            pack: whether documents of raw text are joined.
            carried: what an encoder before this one carried on, as `carried` told.

        Raises:
            UserError: no length, or the tokeniser has no end-of-text token.
        """
        if sequence_length < 1:
            raise UserError(
                f"sequence length {sequence_length}: at least 1 token must be predicted."
            )
        end_of_text(tokenizer)  # refused before the work
        self._tokenizer, self._length, self._pack = tokenizer, sequence_length, pack
        at = carried or {}
        self._tokens = torch.tensor(at.get("tokens", []), dtype=torch.int32)
        self._wrong = torch.tensor(at.get("wrong", []), dtype=torch.bool)
        self._domain: int = at.get("domain", 0)
        self._open: bool = at.get("open", False)
        self.dropped: Counter[str] = Counter(at.get("dropped", {}))
        self.truncated: int = at.get("truncated", 0)
        self.packed: bool = at.get("packed", False)

    @property
    def carried(self) -> dict[str, Any]:
        """The text that is not in a sequence yet, and all counts: plain data, for a file."""
        return {
            "tokens": self._tokens.tolist(),
            "wrong": self._wrong.tolist(),
            "domain": self._domain,
            "open": self._open,
            "dropped": dict(self.dropped),
            "truncated": self.truncated,
            "packed": self.packed,
        }

    def encode(self, block: Sequence[Example]) -> Iterator[Encoded]:
        """The sequences of examples, as far as they are whole."""
        tokenizer, length = self._tokenizer, self._length
        prompts = prompt_tokens([example.prompt for example in block], tokenizer)
        completions = _tokenise(
            [example.completion for example in block],
            tokenizer,
            offsets=any(example.wrong for example in block),
        )
        for example, prompt, (completion, offsets) in zip(block, prompts, completions, strict=True):
            if not (completion or self._open or not example.ends):
                self.dropped[NO_COMPLETION] += 1
                continue
            opening = [] if self._open else prompt
            end = [tokenizer.eos_token_id] if example.ends else []
            tokens = torch.tensor([*opening, *completion, *end], dtype=torch.int32)
            wrong = torch.zeros(len(tokens), dtype=torch.bool)
            if example.wrong:
                until = len(opening) + len(completion)
                wrong[len(opening) : until] = _overlapping(offsets, example.wrong)
                wrong[until:] = example.wrong[-1][1] > len(example.completion)
            if not example.prompt:
                yield from self._of_text(tokens, wrong, example)
            elif len(prompt) > length:
                self.dropped[NO_ROOM] += 1
            else:
                self.truncated += len(tokens) > length + 1
                first, window = max(len(prompt), 1), slice(0, length + 1)
                yield Encoded(tokens[window], first, wrong[window], example.domain)

    def rest(self) -> tuple[Encoded, ...]:
        """The end of packed text, which is shorter than a sequence."""
        found = _consecutive(self._tokens, self._wrong, self._length, self._domain)
        self._keep(self._tokens[:0], self._wrong[:0])
        return found

    def _of_text(
        self, tokens: Int[Tensor, "L"], wrong: Bool[Tensor, "L"], example: Example
    ) -> tuple[Encoded, ...]:
        """The sequences that raw text fills; all of it where nothing is to follow."""
        self._open, self._domain = not example.ends, example.domain
        self.packed |= self._pack
        if len(self._tokens):
            tokens = torch.cat([self._tokens, tokens])
            wrong = torch.cat([self._wrong, wrong])
        if self._pack or self._open:
            whole = max(len(tokens) - 1, 0) // self._length * self._length
            self._keep(tokens[whole:], wrong[whole:])
            tokens, wrong = tokens[: whole + 1], wrong[: whole + 1]
        else:
            self._keep(tokens[:0], wrong[:0])
        return _consecutive(tokens, wrong, self._length, example.domain)

    def _keep(self, tokens: Int[Tensor, "L"], wrong: Bool[Tensor, "L"]) -> None:
        self._tokens, self._wrong = tokens.clone(), wrong.clone()


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
