"""Evaluation some pictures at a time: what it gives, what it holds, and where the rest lies."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from live_bytes import LiveBytes
from test_frozen_evaluation import (
    CLASSES,
    TASKS,
    Patches,
    evaluate_frozen,
    evaluate_quickly,
    scenes,
)

from vfunc.errors import UserError
from vfunc.storage.overflow import Overflow
from vfunc.vision.evaluation import held_features as held
from vfunc.vision.evaluation.exact_median import median_of
from vfunc.vision.evaluation.probes import ProbeOptions
from vfunc.vision.feedback.heads import HeadOptions, fit_on_features, frozen_features

WEIGHTS = {"segmentation": 1.0, "depth": 8.0, "classification": 0.5}


class Watched:
    """A set of pictures that counts what is asked of it."""

    def __init__(self, batch):
        self.batch, self.most = batch, 0

    def __len__(self):
        return len(self.batch)

    def rows(self, at):
        self.most = max(self.most, len(at))
        return self.batch.rows(at)

    def labels(self, task, at):
        self.most = max(self.most, len(at))
        return self.batch.labels(task, at)


def doubled(batch):
    return replace(batch, images=batch.images.double(), depth=batch.depth.double())


@pytest.mark.parametrize("limit", [float("inf"), 0.0])
def test_heads_fitted_on_parts_are_those_of_all_pictures_together(monkeypatch, tmp_path, limit):
    learner, batch = Patches().double(), doubled(scenes(30, 0))
    features = frozen_features(learner, batch.images, 1)
    expected = fit_on_features(features, batch, TASKS, CLASSES, HeadOptions(steps=20))
    monkeypatch.setattr(held, "TOGETHER", 7 * features.maps[:1].numel() * 8)
    room = Overflow(limit, tmp_path)
    there = held.held_features(learner, batch, 1, TASKS, CLASSES, room)
    found = held.fit_on_held(there, TASKS, CLASSES, HeadOptions(steps=20), room)
    for task, head in expected.by_task.items():
        assert found.by_task[task].scale == head.scale
        assert (found.by_task[task].weight - head.weight).abs().max() < 1e-9
        assert (found.by_task[task].bias - head.bias).abs().max() < 1e-9


def test_a_part_of_void_pictures_adds_nothing(monkeypatch):
    learner, batch = Patches().double(), doubled(scenes(12, 0))
    batch.depth[4:8] = 0
    features = frozen_features(learner, batch.images, 1)
    expected = fit_on_features(features, batch, ["depth"], CLASSES, HeadOptions(steps=5))
    monkeypatch.setattr(held, "TOGETHER", 4 * features.maps[:1].numel() * 8)
    room = Overflow(float("inf"))
    there = held.held_features(learner, batch, 1, ["depth"], CLASSES, room)
    found = held.fit_on_held(there, ["depth"], CLASSES, HeadOptions(steps=5), room)
    assert (found.by_task["depth"].weight - expected.by_task["depth"].weight).abs().max() < 1e-9


def test_evaluation_is_the_same_whatever_is_there_at_once(monkeypatch, tmp_path):
    fit, test = scenes(30, 0), scenes(23, 1)
    options = ProbeOptions(steps=5)

    def both(room):
        quick = evaluate_quickly(Patches(), fit, test, WEIGHTS, CLASSES, HeadOptions(), room)
        return evaluate_frozen(Patches(), fit, test, TASKS, CLASSES, options, room), quick

    whole = both(None)
    monkeypatch.setattr(held, "CHUNK", 5)
    parts = both(Overflow(0.0, tmp_path))
    assert not os.listdir(tmp_path)
    for one, other in zip(whole, parts, strict=True):
        assert dict(one.metrics) == pytest.approx(dict(other.metrics), abs=1e-6)
        for name, numbers in one.outcomes.items():
            assert numbers == pytest.approx(other.outcomes[name], abs=1e-5)


def test_no_more_than_a_chunk_of_pictures_or_features_is_there_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(held, "CHUNK", 5)
    images = scenes(6, 0).images[0].nbytes
    peaks = {}
    for count in (20, 80):
        fit, test = Watched(scenes(count, 0)), Watched(scenes(count, 1))
        with LiveBytes() as bytes_:
            evaluate_frozen(
                Patches(),
                fit,
                test,
                TASKS[:2],
                CLASSES,
                ProbeOptions(steps=2),
                Overflow(0.0, tmp_path),
            )
        peaks[count] = bytes_.peak
        assert max(fit.most, test.most) <= 8  # a batch of the probe's
    # of what grows with the pictures, vectors and numbers alone
    assert peaks[80] - peaks[20] < 0.2 * 60 * images


def test_what_is_beyond_the_limit_lies_in_a_file_without_a_name(tmp_path):
    room = Overflow(100.0, tmp_path)
    small = room.room((5, 5), torch.float32, "features")
    large = room.room((3, 4), torch.int32, "features")
    assert not isinstance(small.numpy().base, np.memmap)
    large.copy_(torch.arange(12).view(3, 4))
    assert large.tolist() == torch.arange(12).view(3, 4).tolist()
    assert not os.listdir(tmp_path) and room.used == 100
    del small
    assert room.used == 0


def test_a_full_disk_is_a_line(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"1\.5 GiB of features .*No space left .* VFUNC_CACHE"):
        Overflow(0.0, tmp_path).room((3, 2**27), torch.float32, "features")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(2**-10, 2**13, width=32), min_size=1, max_size=40),
    st.integers(1, 7),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_the_median_is_torchs(numbers, size, dtype):
    x = torch.tensor(numbers, dtype=dtype)
    assert median_of(lambda: iter(x.split(size))) == float(x.median())


def test_the_median_of_nothing_is_refused():
    with pytest.raises(UserError, match="median of no numbers"):
        median_of(lambda: iter([torch.zeros(0)]))
