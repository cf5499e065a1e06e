"""Splits of a set of pictures: disjoint, contiguous where frames are, and refused when too small."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vfunc.errors import UserError
from vfunc.vision.data.splits import split_contiguous, split_shuffled

some_sizes = st.lists(st.integers(1, 20), min_size=1, max_size=6)


@settings(max_examples=60)
@given(some_sizes, st.integers(0, 5), st.integers(0, 30))
def test_contiguous_splits_are_blocks_in_order_with_gaps(sizes, gap, spare):
    count = sum(sizes) + gap * (len(sizes) - 1) + spare
    splits = split_contiguous(count, sizes, gap=gap)
    assert [list(split) for split in splits] == [
        list(range(p.start, p.start + n)) for p, n in zip(splits, sizes, strict=True)
    ]
    assert splits[0].start == 0 and splits[-1].stop <= count
    assert all(b.start - a.stop == gap for a, b in itertools.pairwise(splits))


@settings(max_examples=60)
@given(some_sizes, st.integers(0, 30), st.integers(0, 99))
def test_shuffled_splits_share_no_picture(sizes, spare, seed):
    count = sum(sizes) + spare
    splits = split_shuffled(count, sizes, seed)
    assert [len(split) for split in splits] == sizes
    drawn = [i for split in splits for i in split]
    assert len(set(drawn)) == sum(sizes) and set(drawn) <= set(range(count))
    assert splits == split_shuffled(count, sizes, seed)
    assert splits[0] == split_shuffled(count, sizes[:1], seed)[0]


def test_shuffled_splits_are_drawn_from_everywhere_and_by_the_seed():
    first, second = split_shuffled(100, [50, 50], 0)
    assert first != tuple(range(50)) and max(first) > 80 > 20 > min(second)
    assert split_shuffled(100, [50, 50], 1)[0] != first


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: split_contiguous(10, [3, 4], gap=4),
            "10 pictures are too few: splits of 3, 4 and 4 between them need 11; give more pictures",
        ),
        (lambda: split_contiguous(10, [3, 0]), "every split needs a positive size"),
        (lambda: split_contiguous(10, []), "every split needs a positive size"),
        (lambda: split_contiguous(10, [3], gap=-1), "gap=-1"),
        (lambda: split_shuffled(5, [3, 3], 0), "5 pictures are too few: splits of 3, 3 need 6;"),
        (lambda: split_shuffled(5, [3], -1), "seed -1"),
    ],
)
def test_what_cannot_be_split_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()
