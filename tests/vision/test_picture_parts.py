"""Parts of a set of pictures: disjoint, contiguous where frames are, and refused when too small."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vfunc.errors import UserError
from vfunc.vision.data.examples import Example, Labelled
from vfunc.vision.data.parts import Part, split_contiguous, split_shuffled

some_sizes = st.lists(st.integers(1, 20), min_size=1, max_size=6)


@settings(max_examples=60)
@given(some_sizes, st.integers(0, 5), st.integers(0, 30))
def test_contiguous_parts_are_blocks_in_order_with_gaps(sizes, gap, spare):
    count = sum(sizes) + gap * (len(sizes) - 1) + spare
    parts = split_contiguous(count, sizes, gap=gap)
    assert [list(part) for part in parts] == [
        list(range(p.start, p.start + n)) for p, n in zip(parts, sizes, strict=True)
    ]
    assert parts[0].start == 0 and parts[-1].stop <= count
    assert all(b.start - a.stop == gap for a, b in itertools.pairwise(parts))


@settings(max_examples=60)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 3), st.integers(60, 200))
def test_shares_of_the_frames_that_the_gaps_leave(weights, gap, count):
    shares = [w / sum(weights) for w in weights]
    parts = split_contiguous(count, shares, gap=gap)
    left = count - gap * (len(weights) - 1)
    assert all(
        share * left - 1 < len(part) <= share * left + 1e-6
        for part, share in zip(parts, shares, strict=True)
    )
    assert all(b.start - a.stop == gap for a, b in itertools.pairwise(parts))
    assert parts[-1].stop <= count


@settings(max_examples=60)
@given(some_sizes, st.integers(0, 30), st.integers(0, 99))
def test_shuffled_parts_share_no_picture(sizes, spare, seed):
    count = sum(sizes) + spare
    parts = split_shuffled(count, sizes, seed)
    assert [len(part) for part in parts] == sizes
    drawn = [i for part in parts for i in part]
    assert len(set(drawn)) == sum(sizes) and set(drawn) <= set(range(count))
    assert parts == split_shuffled(count, sizes, seed)
    assert parts[0] == split_shuffled(count, sizes[:1], seed)[0]


def test_shuffled_parts_are_drawn_from_everywhere_and_by_the_seed():
    first, second = split_shuffled(100, [50, 50], 0)
    assert first != tuple(range(50)) and max(first) > 80 > 20 > min(second)
    assert split_shuffled(100, [50, 50], 1)[0] != first


def test_shares_round_down_but_leave_a_small_part_one_frame():
    assert split_contiguous(10, [0.5, 0.5], gap=1) == (range(4), range(5, 9))
    assert split_contiguous(5, [0.7, 0.01]) == (range(3), range(3, 4))
    assert split_contiguous(10, [0.1, 0.2, 0.7]) == (range(1), range(1, 3), range(3, 10))


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: split_contiguous(10, [3, 4], gap=4),
            "10 pictures are too few: parts of 3, 4 and 4 between them need 11; give more pictures",
        ),
        (lambda: split_contiguous(2, [0.5, 0.25, 0.25]), "2 pictures are too few: .* need 3;"),
        (lambda: split_contiguous(10, [0.5, 0.6]), "add up to 1.1; they may at most to 1"),
        (lambda: split_contiguous(10, [3, 0]), "every part needs a positive size"),
        (lambda: split_contiguous(10, []), "every part needs a positive size"),
        (lambda: split_contiguous(10, [3], gap=-1), "gap=-1"),
        (lambda: split_shuffled(5, [3, 3], 0), "5 pictures are too few: parts of 3, 3 need 6;"),
        (lambda: split_shuffled(5, [3], -1), "seed -1"),
    ],
)
def test_what_cannot_be_split_is_refused(call, message):
    with pytest.raises(UserError, match=message):
        call()


def numbered(count):
    return [Example(torch.full((3, 2, 2), i, dtype=torch.uint8), label=i) for i in range(count)]


def test_a_part_is_a_view_on_its_source():
    part = Part(numbered(6), (4, 1))
    assert isinstance(part, Labelled) and len(part) == 2
    assert [example.label for example in part] == [4, 1]
    assert len(Part(numbered(6), range(2, 5))) == 3
    for outside in (6, -1):
        with pytest.raises(UserError, match=f"picture {outside} of a part is not among the 6"):
            Part(numbered(6), (0, outside))
