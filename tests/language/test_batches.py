"""Batches, token counts, and the order of a stream."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfunc.errors import UserError
from vfunc.language.data.sequences import (
    TokenStream,
    by_length,
    collate,
    fixed_batches,
    tokens_in,
)
from vfunc.language.data.tokenise import Encoded, EncodedSet

EOS = 0


def sequence(*tokens: int, predict_from: int = 1, wrong: tuple[int, ...] = ()) -> Encoded:
    mask = torch.zeros(len(tokens), dtype=torch.bool)
    mask[list(wrong)] = True
    return Encoded(torch.tensor(tokens, dtype=torch.int32), predict_from, mask)


def numbered(count: int) -> EncodedSet:
    """Sequence i says i."""
    return EncodedSet(tuple(sequence(i, i) for i in range(1, count + 1)), {}, 0, EOS)


def read(stream: TokenStream, position: int, batch_size: int) -> list[int]:
    return stream.batch(position, batch_size).tokens[:, 0].tolist()


def test_collating_pads_on_the_right_and_marks_what_is_predicted():
    batch = collate(
        [sequence(5, 6, 7, EOS, predict_from=2, wrong=(2,)), sequence(8, EOS)], pad_id=EOS
    )
    assert batch.tokens.dtype == torch.long
    assert batch.tokens.tolist() == [[5, 6, 7, EOS], [8, EOS, EOS, EOS]]
    assert batch.predict.tolist() == [[False, True, True], [True, False, False]]
    assert batch.wrong.tolist() == [[False, True, False], [False, False, False]]
    assert batch.inputs.tolist() == [[5, 6, 7], [8, EOS, EOS]]
    predicted = batch.next_tokens[batch.predict]
    assert predicted.tolist() == [7, EOS, EOS]
    assert collate([sequence(1, 2)], pad_id=9).tokens.tolist() == [[1, 2]]


@given(st.lists(st.tuples(st.integers(2, 9), st.integers(1, 8)), min_size=1, max_size=6))
def test_tokens_are_counted_without_padding_even_if_it_is_the_end_of_text(shapes):
    sequences = [
        sequence(*[EOS] * length, predict_from=min(start, length - 1)) for length, start in shapes
    ]
    assert tokens_in(collate(sequences, pad_id=EOS)) == sum(length - 1 for length, _ in shapes)


@given(st.integers(1, 30), st.integers(0, 3), st.integers(1, 9))
def test_every_epoch_is_a_permutation_read_across_its_border(count, seed, batch_size):
    stream = TokenStream(numbered(count), seed)
    assert len(stream) == count
    starts = range(0, 3 * count, batch_size)
    order = [token for at in starts for token in read(stream, at, batch_size)]
    for epoch in range(3):
        assert sorted(order[epoch * count : (epoch + 1) * count]) == list(range(1, count + 1))


def test_the_order_is_a_function_of_seed_and_position_alone():
    stream = TokenStream(numbered(50), 3)
    order = [read(stream, at, 8) for at in range(0, 200, 8)]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert [read(stream, at, 8) for at in range(192, -1, -8)] == order[::-1]
    assert read(stream, 8, 16) == order[1] + order[2]
    assert read(TokenStream(numbered(50), 3), 40, 8) == order[5]
    assert torch.equal(state, torch.get_rng_state())
    assert read(TokenStream(numbered(50), 4), 0, 50) != read(stream, 0, 50)
    assert read(stream, 50, 50) != read(stream, 0, 50)
    # A golden order: a change of it would break resuming from older checkpoints.
    assert read(TokenStream(numbered(6), 0), 0, 12) == [4, 3, 6, 5, 1, 2, 2, 5, 4, 1, 3, 6]


def test_a_batch_may_hold_more_than_an_epoch():
    assert sorted(read(TokenStream(numbered(3), 0), 0, 9)) == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_fixed_batches_hold_every_sequence_once_shortest_first():
    sequences = tuple(sequence(*[i] * (2 + i * 7 % 5)) for i in range(1, 12))
    batches = fixed_batches(EncodedSet(sequences, {}, 0, EOS), 4)
    assert [len(batch.tokens) for batch in batches] == [4, 4, 3]
    lengths = [int((row > 0).sum()) for batch in batches for row in batch.tokens]
    assert lengths == sorted(lengths)
    assert sorted(int(row[0]) for batch in batches for row in batch.tokens) == list(range(1, 12))
    assert sum(map(tokens_in, batches)) == sum(len(s.tokens) - 1 for s in sequences)


def test_batches_by_length_hold_the_same_sequences_and_less_padding():
    sequences = [
        sequence(
            *range(10 * i + 1, 10 * i + 2 + i * 7 % 5), EOS, predict_from=1 + i % 2, wrong=(1,)
        )
        for i in range(1, 12)
    ]
    given = [collate(sequences[:5], EOS), collate(sequences[5:], EOS)]
    found = by_length(given, 4)
    assert [len(batch.tokens) for batch in found] == [4, 4, 3]

    def told(batches):
        """Tokens, predictions and mistakes of each sequence, up to its last prediction."""
        return [
            (row[: n + 1].tolist(), predict[:n].tolist(), wrong[:n].tolist())
            for batch in batches
            for row, predict, wrong, n in zip(
                batch.tokens, batch.predict, batch.wrong, batch.lengths.tolist(), strict=True
            )
        ]

    # a stable sort: of one length they keep their order
    assert told(found) == sorted(told(given), key=lambda one: len(one[0]))
    assert all(batch.tokens.shape[1] == int(batch.lengths.max()) + 1 for batch in found)
    assert not any(batch.predict[:, int(batch.lengths.max()) :].any() for batch in found)
    apart = [batch.tokens.numel() - tokens_in(batch) for batch in (*found, *given)]
    assert sum(apart[:3]) < sum(apart[3:])
    assert by_length([], 4) == ()


def test_batches_by_length_leave_out_what_no_loss_reads_and_keep_domains():
    batch = collate([sequence(5, 6, 7, 8), sequence(9, EOS)], EOS)
    batch.predict[0, 2] = False  # a last turn that nobody learns
    batch = dataclasses.replace(batch, domains=torch.tensor([1, 0]))
    (found,) = by_length([batch], 2)
    assert found.tokens.tolist() == [[9, EOS, EOS], [5, 6, 7]]
    assert found.predict.tolist() == [[True, False], [True, True]]
    assert found.domains is not None and found.domains.tolist() == [0, 1]


def test_senseless_numbers_are_refused():
    stream = TokenStream(numbered(3), 0)
    with pytest.raises(UserError, match="batch size 0"):
        stream.batch(0, 0)
    with pytest.raises(UserError, match="batch size 0"):
        fixed_batches(numbered(3), 0)
    with pytest.raises(UserError, match="batch size 0"):
        by_length([], 0)
    with pytest.raises(UserError, match="position -1"):
        stream.batch(-1, 2)
    with pytest.raises(UserError, match="seed -1"):
        TokenStream(numbered(3), -1)
