"""Pictures read before they are asked for, and decoded once at the size that is needed."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image
from test_vision_data import example

from vfunc.errors import UserError
from vfunc.storage.overflow import Overflow
from vfunc.vision.data.file_sources import Cache, PictureFiles
from vfunc.vision.data.pictures import read_image
from vfunc.vision.data.vision_data import labelled_batch
from vfunc.vision.loading.reading_ahead import ReadingAhead
from vfunc.vision.loading.sized_pictures import FirstOf, SizedPictures


class Counted:
    """Labelled pictures of several sizes, and how often each was read."""

    def __init__(self, count=6):
        self.examples = [example(9 + n, 14, seed=n) for n in range(count)]
        self.reads = [0] * count

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.examples[index]


@pytest.mark.parametrize("limit", [float("inf"), 0.0])
def test_a_picture_is_decoded_once_and_is_what_it_was(tmp_path, limit):
    source = Counted()
    pictures = SizedPictures(source, (6, 8), Overflow(limit, tmp_path))
    for at in ([4, 1], [1, 1, 3], range(6), [0]):
        found, expected = pictures.rows(at), labelled_batch(source.examples, at, (6, 8))
        for name in ("images", "segmentation", "depth", "classes"):
            one, other = getattr(found, name), getattr(expected, name)
            assert one.dtype == other.dtype and torch.equal(one, other)
        for task, name in (("depth", "depth"), ("classification", "classes")):
            assert torch.equal(pictures.labels(task, at), getattr(expected, name))
        assert torch.equal(pictures.labels("segmentation", at), expected.segmentation)
    assert source.reads == [1] * 6
    first = FirstOf(pictures, 2)
    assert (len(first), len(FirstOf(pictures, 9))) == (2, 6)


def test_labels_that_only_some_have_are_refused_wherever_they_are():
    source = Counted()
    source.examples[5] = example(seed=5, depth=None)
    pictures = SizedPictures(source, (6, 8), Overflow(float("inf")))
    pictures.rows([0, 1])
    with pytest.raises(UserError, match=r"5\.png has no depth but 0\.png has one"):
        pictures.rows([5])
    bare = SizedPictures([example(depth=None, label=None)], (6, 8), Overflow(float("inf")))
    with pytest.raises(UserError, match="depth is asked for"):
        bare.labels("depth", [0])


def test_classes_beyond_sixteen_bits_are_kept():
    one = example(9, 14)
    one = replace(one, segmentation=torch.full_like(one.segmentation, 40_000, dtype=torch.int64))
    labels = SizedPictures([one], (6, 8), Overflow(float("inf"))).labels("segmentation", [0])
    assert labels.unique().tolist() == [40_000]


def test_a_full_disk_is_told_each_time():
    """What was begun before it is not taken for what is there."""

    class Full(Overflow):
        def room(self, shape, dtype, what, device="cpu"):
            if dtype != torch.uint8:
                raise UserError("no room")
            return super().room(shape, dtype, what, device)

    pictures = SizedPictures(Counted(), (6, 8), Full(float("inf")))
    for _ in range(2):
        with pytest.raises(UserError, match="no room"):
            pictures.rows([0])


def made_by(workers, log=None):
    def make(place):
        if log is not None:
            log.append((place, threading.current_thread() is threading.main_thread()))
        return place**2

    return ReadingAhead(make, workers)


def test_batches_made_ahead_are_those_asked_for():
    log = []
    ahead = made_by(2, log)
    order = [0, 1, 2, 3, 1, 2, 3, 4, 40, 2, 3]  # a look ahead, a jump
    assert [ahead(at, [at + 1, at + 2, at + 3]) for at in order] == [at**2 for at in order]
    assert not any(main for _, main in log)
    # no more is kept than was asked for, what comes next, and as many again
    assert len(ahead._made) <= 5


def test_the_next_ones_are_made_while_nobody_waits():
    log = []
    ahead = made_by(3, log)
    ahead(0, [1, 2, 3, 4])
    until = time.monotonic() + 10
    while len(log) < 4 and time.monotonic() < until:
        time.sleep(0.01)
    assert sorted(place for place, _ in log) == [0, 1, 2, 3]
    ahead(1, [2, 3])
    assert len(log) == 4  # it was there


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_is_made_by_one_thread_of_torchs_and_the_learner_keeps_its_own(workers):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        ahead = ReadingAhead(lambda place: torch.get_num_threads(), workers)
        assert [ahead(at, [at + 1, at + 2]) for at in range(3)] == [1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_none_is_made_ahead_where_none_is_asked_to_be():
    log = []
    ahead = made_by(0, log)
    assert [ahead(at, []) for at in (0, 1, 0)] == [0, 1, 0]
    assert [place for place, _ in log] == [0, 1, 0]


def test_a_fault_is_told_where_the_batch_is_asked_for():
    def make(place):
        if place == 2:
            raise UserError("2.png: is empty")
        return place

    ahead = ReadingAhead(make, 2)
    assert ahead(0, [1, 2]) == 0 and ahead(1, [2]) == 1
    for _ in range(2):
        with pytest.raises(UserError, match=r"2\.png: is empty"):
            ahead(2, [])


@pytest.mark.parametrize(("name", "size"), [("a.png", (100, 60)), ("a.jpg", (640, 480))])
def test_a_stream_may_be_decoded_at_the_size_that_is_needed(tmp_path, name, size):
    smooth = torch.linspace(0, 255, size[0]).round().to(torch.uint8)
    pixels = torch.stack([smooth.expand(size[1], -1)] * 3, -1)
    Image.fromarray(pixels.numpy()).save(tmp_path / name)
    found = read_image(tmp_path / name, 24)
    assert found.shape == (3, 24, round(24 * size[0] / size[1]))
    # a ramp stays one: what is decoded at a fraction is that picture and no part of it
    ramp = torch.linspace(0, 255, found.shape[2])
    assert (found.float() - ramp).abs().max() < 6
    assert torch.equal(read_image(tmp_path / name, 999), read_image(tmp_path / name))
    source = PictureFiles([tmp_path / name], Cache(), side=24)
    assert torch.equal(source[0], found) and source.cache.used == found.numel()
    assert PictureFiles([tmp_path / name], source.cache)[0].shape[1:] == size[::-1]
