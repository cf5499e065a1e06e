"""Batches of labelled pictures and the order of a stream, against literal readings."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vfunc.errors import UserError
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.vision_data import Example, cyclic, labelled_batch, stream_pictures


def example(height=8, width=8, seed=0, **changes):
    draws = np.random.default_rng(seed)
    fields = {
        "image": torch.from_numpy(draws.integers(0, 256, (3, height, width), dtype=np.uint8)),
        "segmentation": torch.from_numpy(draws.integers(0, 5, (height, width))),
        "depth": torch.from_numpy(draws.uniform(1, 9, (height, width)).astype(np.float32)),
        "label": seed,
        "name": f"{seed}.png",
    }
    return Example(**{**fields, **changes})


def nearest(labels, size):
    """Pixel by pixel: the source pixel in which the new pixel's centre lies."""
    (height, width), (rows, columns) = labels.shape, size
    picked = [
        [
            labels[int((i + 0.5) * height / rows), int((j + 0.5) * width / columns)]
            for j in range(columns)
        ]
        for i in range(rows)
    ]
    return torch.tensor(picked, dtype=labels.dtype)


@pytest.mark.parametrize("size", [(8, 8), (5, 3), (13, 20), (4, 16)])
def test_classes_and_depth_take_the_nearest_pixel(size):
    depth = torch.where(torch.rand(9, 11) < 0.5, torch.zeros(()), 1 + 8 * torch.rand(9, 11))
    source = [example(9, 11, depth=depth), example(9, 11, seed=1)]
    batch = labelled_batch(source, (1, 0), size)
    assert torch.equal(batch.segmentation[1], nearest(source[0].segmentation, size))
    assert torch.equal(batch.depth[1], nearest(depth, size))
    assert torch.equal(batch.segmentation[0], nearest(source[1].segmentation, size))
    # nothing is made up between two classes, two depths, or a depth and an unknown one
    assert set(batch.depth[1].flatten().tolist()) <= set(depth.flatten().tolist())
    assert batch.classes.tolist() == [1, 0]


def test_a_batch_has_the_types_that_are_promised():
    source = [
        example(
            segmentation=torch.full((8, 8), IGNORE, dtype=torch.int8),
            depth=torch.rand(8, 8).double(),
        )
    ]
    batch = labelled_batch(source, [0], (4, 4))
    assert batch.images.dtype == batch.depth.dtype == torch.float32
    assert batch.segmentation.dtype == batch.classes.dtype == torch.int64
    assert (batch.segmentation == IGNORE).all()


def test_an_image_of_the_right_size_is_only_scaled_to_one():
    source = [example()]
    assert torch.equal(labelled_batch(source, [0], (8, 8)).images[0], source[0].image / 255)


def test_an_image_is_shrunk_with_antialiasing():
    """Halving: the triangle filter of twice the width, (1, 3, 3, 1) / 8, away from the edges.

    What comes out is a picture of 8 bits again.
    """
    source = [example(16, 16)]
    halved = labelled_batch(source, [0], (8, 8)).images[0].double()
    weights = torch.tensor([1, 3, 3, 1]).double() / 8
    image = source[0].image.double() / 255
    for row in range(1, 7):
        for column in range(1, 7):
            window = image[:, 2 * row - 1 : 2 * row + 3, 2 * column - 1 : 2 * column + 3]
            expected = torch.einsum("chw,h,w->c", window, weights, weights)
            assert (halved[:, row, column] - expected).abs().max() < 0.5 / 255 + 1e-6
    levels = 255 * halved
    assert (levels - levels.round()).abs().max() < 1e-4


def test_labels_may_be_missing_throughout_but_not_here_and_there():
    depth_only = [example(seed=s, segmentation=None, label=None) for s in range(2)]
    batch = labelled_batch(depth_only, [0, 1], (8, 8))
    assert batch.segmentation is None and batch.classes is None and batch.depth is not None
    mixed = [example(seed=1), example(seed=2, depth=None)]
    with pytest.raises(UserError, match=r"^2\.png has no depth but 1\.png has one; label all"):
        labelled_batch(mixed, [0, 1], (8, 8))


def test_a_batch_of_nothing_is_refused():
    with pytest.raises(UserError, match="a batch of no pictures"):
        labelled_batch([example()], [], (8, 8))
    bare = example(segmentation=None, depth=None, label=None)
    with pytest.raises(UserError, match=r"0\.png has no labels"):
        labelled_batch([bare], [0], (8, 8))


def pictures(count):
    return [torch.full((3, 1, 1), i, dtype=torch.uint8) for i in range(count)]


def numbers(source, position, count, seed=0):
    return [int(p[0, 0, 0]) for p in stream_pictures(source, position, count, seed)]


@settings(max_examples=30)
@given(st.integers(1, 20), st.integers(0, 99), st.integers(0, 50), st.integers(0, 30))
def test_a_stream_is_random_access_and_each_epoch_a_permutation(size, seed, position, count):
    source = pictures(size)
    whole = numbers(source, 0, 5 * size + 80, seed)
    assert numbers(source, position, count, seed) == whole[position : position + count]
    for epoch in range(5):
        assert sorted(whole[epoch * size : (epoch + 1) * size]) == list(range(size))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [numbers(pictures(50), 50 * epoch, 50, seed) for epoch in (0, 1) for seed in (0, 1)]
    assert len({tuple(order) for order in [*orders, list(range(50))]}) == 5


def test_a_stream_without_pictures_position_or_seed_is_refused():
    for arguments, message in (
        (([], 0, 1, 0), "the stream holds no pictures"),
        ((pictures(2), -1, 1, 0), "position -1"),
        ((pictures(2), 0, 1, -1), "seed -1"),
    ):
        with pytest.raises(UserError, match=message):
            stream_pictures(*arguments)


def test_feedback_batches_go_round_and_round():
    assert [cyclic(5, index, 2) for index in range(4)] == [[0, 1], [2, 3], [4, 0], [1, 2]]
    assert cyclic(3, 7, 3) == [0, 1, 2]


def test_a_batch_larger_than_its_source_is_refused():
    with pytest.raises(UserError, match="a batch of 4 labelled pictures cannot be read from 3"):
        cyclic(3, 0, 4)
    with pytest.raises(UserError, match="a batch of 0"):
        cyclic(3, 0, 0)
    with pytest.raises(UserError, match="batch -1"):
        cyclic(3, -1, 1)
