"""Collates token sequences into batches, and orders the sequences of a stream.

A stream is a pure function of a seed and a position: nothing advances, so that resuming and
looking ahead need no state but a number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from vfunc.errors import UserError
from vfunc.language.data.examples import TokenBatch
from vfunc.language.data.tokenise import Encoded, EncodedSet
from vfunc.typecheck import typed


@typed
def collate(sequences: Sequence[Encoded], pad_id: int) -> TokenBatch:
    """Stack sequences, padded on the right to the longest.

    Args:
        sequences: B sequences, at least one.
        pad_id: token id of the padding, which is never predicted.
    """
    shape = len(sequences), max(len(sequence.tokens) for sequence in sequences)
    tokens = torch.full(shape, pad_id, dtype=torch.long)
    predict = torch.zeros(shape, dtype=torch.bool)
    wrong = torch.zeros(shape, dtype=torch.bool)
    for row, sequence in enumerate(sequences):
        length = len(sequence.tokens)
        tokens[row, :length] = sequence.tokens
        predict[row, sequence.predict_from : length] = True
        wrong[row, :length] = sequence.wrong
    domains = torch.tensor([sequence.domain for sequence in sequences])
    return TokenBatch(tokens, predict[:, 1:], wrong[:, 1:], domains)


@typed
def tokens_in(batch: TokenBatch) -> int:
    """Number of input tokens in a batch without padding, as a token budget counts them.

    Padding may be the end-of-text token, so ids do not mark it. The last prediction of a sequence
    does: it is that of its last token.
    """
    until_last = batch.predict.flip(1).cumsum(1) > 0
    return int(until_last.sum())


@typed
def fixed_batches(encoded: EncodedSet, batch_size: int) -> tuple[TokenBatch, ...]:
    """Every sequence once, shortest first (to pad little), the last batch perhaps smaller."""
    _require_batch_size(batch_size)
    ordered = sorted(encoded.sequences, key=lambda sequence: len(sequence.tokens))
    starts = range(0, len(ordered), batch_size)
    return tuple(collate(ordered[at : at + batch_size], encoded.pad_id) for at in starts)


@dataclass(frozen=True, eq=False)
class TokenStream:
    """An endless order of sequences, known by its seed: epoch after epoch, each a permutation.

    It holds no position and draws on no global random state: a position is handed in, so that
    resuming and looking ahead are the same call as reading on.

    Attributes:
        encoded: the sequences.
        seed: seed of the order, not negative; epoch e takes (seed, e).
    """

    encoded: EncodedSet
    seed: int

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: a seed cannot be negative.")

    def __len__(self) -> int:
        """Sequences in an epoch."""
        return len(self.encoded)

    @property
    def distinct(self) -> int:
        """How many sequences from the first on are no repeats."""
        return len(self)

    @typed
    def batch(self, position: int, batch_size: int) -> TokenBatch:
        """The sequences at `position`, ..., `position + batch_size - 1` of the endless order.

        Args:
            position: number of sequences before; a batch may run across epochs. The next
                batch stands at `position + batch_size`.
            batch_size: sequences in a batch, B.
        """
        _require_batch_size(batch_size)
        return collate(self.sequences(position, batch_size), self.encoded.pad_id)

    def sequences(self, position: int, count: int) -> list[Any]:
        """So many sequences from `position` on."""
        return in_turn((self.encoded.sequences,), self.seed, position, count)

    @property
    def pad_id(self) -> int:
        """What batches are padded with."""
        return self.encoded.pad_id


@dataclass(frozen=True, eq=False)
class InterleavedStream:
    """Several streams in turn, one sequence of each: equal shares, whatever their sizes.

    Attributes:
        sets: the sequences of each stream.
        seed: seed of each stream's order, as of a `TokenStream`.
    """

    sets: tuple[EncodedSet, ...]
    seed: int

    @property
    def distinct(self) -> int:
        """See `TokenStream.distinct`."""
        return min(map(len, self.sets)) * len(self.sets)

    @typed
    def batch(self, position: int, batch_size: int) -> TokenBatch:
        """See `TokenStream.batch`; a batch of at least as many sequences holds every set."""
        _require_batch_size(batch_size)
        return collate(self.sequences(position, batch_size), self.pad_id)

    def sequences(self, position: int, count: int) -> list[Any]:
        """See `TokenStream.sequences`."""
        sources = tuple(one.sequences for one in self.sets)
        return in_turn(sources, self.seed, position, count)

    @property
    def pad_id(self) -> int:
        """What batches are padded with."""
        return self.sets[0].pad_id


@dataclass(frozen=True, eq=False)
class MixedStream:
    """A stream with labelled sequences among it, evenly: a share of every stretch of it.

    Attributes:
        stream: the stream, each sequence of it in its order.
        labelled: the labelled sequences, likewise.
        share: the share of labelled sequences, above 0 and below 1.
    """

    stream: TokenStream | InterleavedStream
    labelled: TokenStream | InterleavedStream
    share: float

    @typed
    def batch(self, position: int, batch_size: int) -> TokenBatch:
        """See `TokenStream.batch`."""
        _require_batch_size(batch_size)
        chosen = []
        for at in range(position, position + batch_size):
            before = self._labelled_before(at)
            if self._labelled_before(at + 1) > before:
                chosen += self.labelled.sequences(before, 1)
            else:
                chosen += self.stream.sequences(at - before, 1)
        return collate(chosen, self.stream.pad_id)

    def _labelled_before(self, at: int) -> int:
        return math.floor(at * self.share + 1e-9)  # that a third of three is one


def in_turn(sources: Sequence[Sequence[Any]], seed: int, position: int, count: int) -> list[Any]:
    """`count` items from `position` on of an endless order that takes one of each source in turn.

    Args:
        sources: items of each source, read epoch after epoch in an order of its own; none empty.
        seed: seed of the orders.
        position: number of items before.
        count: number of items.

    Raises:
        UserError: the position is negative.
    """
    if position < 0:
        raise UserError(f"position {position}: a stream starts at 0.")
    chosen = []
    for at in range(position, position + count):
        turn, which = divmod(at, len(sources))
        source = sources[which]
        epoch, index = divmod(turn, len(source))
        chosen.append(source[_order(len(source), seed, epoch)[index]])
    return chosen


@lru_cache(maxsize=16)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order


def _require_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: a batch holds at least 1 sequence.")
