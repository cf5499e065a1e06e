"""Collates token sequences into batches, and orders the sequences of a stream.

A stream is a pure function of a seed and a position: nothing advances, so that resuming and
looking ahead need no state but a number. A source whose end is known is shuffled as a whole, one
that is read as it comes within windows.
"""

from __future__ import annotations

import hashlib
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

TABLE = 2**20
"""Sequences of a source above which its order is computed place by place, not held as a table."""
DRAWS = 4096
"""Positions of a mixture whose sources are drawn at a time."""
_MIXTURE = 7


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


@typed
def by_length(batches: Sequence[TokenBatch], batch_size: int) -> tuple[TokenBatch, ...]:
    """The sequences of some batches in others that hold little padding: the shortest first.

    What stands behind a sequence's last prediction is left out, which no loss reads. Sequences of
    one length keep their order. For losses that are sums over all of the batches, such as a bank's.

    Args:
        batches: each may be padded to another length; `count` and `below` are left out.
        batch_size: sequences in a batch, the last one perhaps smaller.
    """
    _require_batch_size(batch_size)
    rows = [
        (length, batch, row)
        for batch in batches
        for row, length in enumerate(batch.lengths.tolist())
    ]
    rows.sort(key=lambda one: one[0])
    parts = (rows[at : at + batch_size] for at in range(0, len(rows), batch_size))
    return tuple(_cut_to_longest(part) for part in parts)


def _cut_to_longest(rows: Sequence[tuple[int, TokenBatch, int]]) -> TokenBatch:
    """Sequences of batches, by their inputs' lengths, as one batch."""
    longest = max(length for length, _, _ in rows)
    tokens = torch.zeros(len(rows), longest + 1, dtype=torch.long)
    predict = torch.zeros(len(rows), longest, dtype=torch.bool)
    wrong = torch.zeros_like(predict)
    domains = torch.zeros(len(rows), dtype=torch.long)
    for at, (length, batch, row) in enumerate(rows):
        tokens[at, : length + 1] = batch.tokens[row, : length + 1]
        predict[at, :length] = batch.predict[row, :length]
        wrong[at, :length] = batch.wrong[row, :length]
        if batch.domains is not None:
            domains[at] = batch.domains[row]
    return TokenBatch(tokens, predict, wrong, domains)


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
class WeightedStream:
    """A mixture of streams: the source of each sequence is drawn, by weight.

    Attributes:
        sets: the sequences of each source.
        weights: the chance of each, adding up to 1; None takes them in turn.
        seed: seed of the draws, and of each source's order.
        window: sequences among which a source is shuffled, read as it comes; None shuffles it as a
            whole.
    """

    sets: tuple[EncodedSet, ...]
    weights: tuple[float, ...] | None
    seed: int
    window: int | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise UserError(f"seed {self.seed}: a seed cannot be negative.")

    @property
    def distinct(self) -> int:
        """See `TokenStream.distinct`; of weighted sources, as many as are sure to be there."""
        if self.weights is None and self.window is None:
            return min(map(len, self.sets)) * len(self.sets)
        return min(map(len, self.sets))

    @typed
    def batch(self, position: int, batch_size: int) -> TokenBatch:
        """See `TokenStream.batch`; a source may be missing from it."""
        _require_batch_size(batch_size)
        return collate(self.sequences(position, batch_size), self.pad_id)

    def sequences(self, position: int, count: int) -> list[Any]:
        """See `TokenStream.sequences`."""
        _require_position(position)
        chosen = []
        for at in range(position, position + count):
            if self.weights is None:
                turn, which = divmod(at, len(self.sets))
            else:
                which, turn = _drawn(self.weights, self.seed, at)
            source = self.sets[which].sequences
            place = (
                _place(len(source), self.seed, turn)
                if self.window is None
                else _place_in_window(source, self.seed, turn, self.window)
            )
            chosen.append(source[place])
        return chosen

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

    stream: TokenStream | InterleavedStream | WeightedStream
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


def in_turn(sources: Sequence[Any], seed: int, position: int, count: int) -> list[Any]:
    """`count` items from `position` on of an endless order that takes one of each source in turn.

    Args:
        sources: items of each source, read epoch after epoch in an order of its own; none empty.
        seed: seed of the orders.
        position: number of items before.
        count: number of items.

    Raises:
        UserError: the position is negative.
    """
    _require_position(position)
    chosen = []
    for at in range(position, position + count):
        turn, which = divmod(at, len(sources))
        source = sources[which]
        chosen.append(source[_place(len(source), seed, turn)])
    return chosen


def _place(count: int, seed: int, turn: int) -> int:
    """Where the item of a turn stands among so many, which are read epoch after epoch."""
    epoch, index = divmod(turn, count)
    if count > TABLE:
        return _permuted(count, index, (seed, epoch))
    return int(_order(count, seed, epoch)[index])


def _place_in_window(source: Any, seed: int, turn: int, window: int) -> int:
    """The same of items that are shuffled within windows, and made when they are asked for."""
    grow = getattr(source, "grow_to", None)
    epoch, index = 0, turn
    first = index // window * window
    there = min(first + window, len(source)) if grow is None else grow(first + window)
    if turn >= there:  # the end is known
        epoch, index = divmod(turn, len(source))
        first = index // window * window
        there = min(first + window, len(source))
    return first + int(_order(there - first, seed, epoch, first // window)[index - first])


def _permuted(count: int, index: int, key: tuple[int, ...]) -> int:
    """A permutation without a table: four rounds of a Feistel network, walked until it is inside.

    Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    half = (int(count - 1).bit_length() + 1) // 2
    mask = (1 << half) - 1
    while True:
        left, right = index >> half, index & mask
        for n in range(4):
            said = repr((*key, n, right)).encode()
            drawn = int.from_bytes(hashlib.blake2b(said, digest_size=8).digest(), "big")
            left, right = right, left ^ (drawn & mask)
        index = left << half | right
        if index < count:
            return index


@lru_cache(maxsize=16)
def _order(count: int, *key: int) -> np.ndarray:
    order = np.random.default_rng([*key]).permutation(count)
    order.flags.writeable = False
    return order


def _drawn(weights: tuple[float, ...], seed: int, at: int) -> tuple[int, int]:
    """Which source a position takes, and how many positions before it take the same."""
    block, row = divmod(at, DRAWS)
    drawn = _draws(weights, seed, block)
    which = int(drawn[row])
    return which, _before(weights, seed, block)[which] + int((drawn[:row] == which).sum())


@lru_cache(maxsize=16)
def _draws(weights: tuple[float, ...], seed: int, block: int) -> np.ndarray:
    # a third number, so that no draw is one of an order's
    generator = np.random.default_rng([seed, block, _MIXTURE])
    drawn = generator.random(DRAWS)
    return np.searchsorted(np.cumsum(weights)[:-1], drawn, side="right")


_COUNTED: dict[tuple[tuple[float, ...], int], list[tuple[int, ...]]] = {}


def _before(weights: tuple[float, ...], seed: int, block: int) -> tuple[int, ...]:
    """How often each source is drawn before a block: counted once, from the start on."""
    counted = _COUNTED.setdefault((weights, seed), [(0,) * len(weights)])
    while len(counted) <= block:
        drawn = np.bincount(_draws(weights, seed, len(counted) - 1), minlength=len(weights))
        counted.append(tuple(int(b + d) for b, d in zip(counted[-1], drawn, strict=True)))
    return counted[block]


def _require_position(position: int) -> None:
    if position < 0:
        raise UserError(f"position {position}: a stream starts at 0.")


def _require_batch_size(batch_size: int) -> None:
    if batch_size < 1:
        raise UserError(f"batch size {batch_size}: a batch holds at least 1 sequence.")
