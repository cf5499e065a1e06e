"""Photographs that their EXIF turns, with labels as shown or as stored: pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vfunc.vision.data.folders import folder_data
from vfunc.vision.data.orientation import turned
from vfunc.vision.evaluation.metrics import described

ROLES = ("heads", "feedback", "held_out", "fit", "test")
HOW = range(1, 9)


def with_orientation(how):
    exif = Image.Exif()
    exif[0x0112] = how
    return exif


def shown_as(array, how):
    """What Pillow shows of stored pixels."""
    picture = Image.fromarray(array)
    picture.getexif()[0x0112] = how
    return np.asarray(ImageOps.exif_transpose(picture))


@pytest.mark.parametrize("how", HOW)
def test_a_map_is_turned_as_pillow_turns_a_picture(how):
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert turned(torch.from_numpy(array), how).tolist() == shown_as(array, how).tolist()


def photographs(root, hows, frame, shape=(8, 12), kind="labels", own_exif=False):
    """Stored pictures whose red channel is 40 times the class; labels in the one frame or other."""
    for k, how in enumerate(hows):
        classes = np.random.default_rng(k).integers(0, 3, shape).astype(np.uint8)
        stored = np.stack([classes * 40, np.full_like(classes, k), classes], -1)
        labels = classes if frame == "stored" else shown_as(classes, how)
        for name in ("images", kind):
            (root / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(stored).save(root / f"images/{k}.png", exif=with_orientation(how))
        labels = labels if kind == "labels" else (labels.astype(np.uint16) + 1) * 1000
        exif = {"exif": with_orientation(how)} if own_exif else {}
        Image.fromarray(labels).save(root / f"{kind}/{k}.png", **exif)
    return root


def agreement(data):
    """The share of pixels whose label is the picture's own; of the pictures that were read."""
    found = []
    for role in ROLES:
        for example in getattr(data, role):
            told = example.segmentation if example.depth is None else example.depth - 1
            found.append((example.image[0].float() / 40 == told).float().mean())
    return float(torch.stack(found).mean())


@pytest.mark.parametrize("frame", ["stored", "shown"])
@pytest.mark.parametrize("kind", ["labels", "depth"])
def test_picture_and_map_agree_whichever_way_the_map_lies(tmp_path, frame, kind):
    data = folder_data(photographs(tmp_path, [*HOW] * 4, frame, kind=kind), image_size=8)
    assert agreement(data) == 1.0
    said = data.summary["orientation"]
    assert said["pictures turned as their EXIF says"] == {"count": 28}
    name = "segmentation" if kind == "labels" else "depth"
    what = "turned with them" if frame == "stored" else "that lie as shown"
    assert said[f"{name} maps {what}"] == {"count": 28}  # 2 to 4 by the others' word
    assert any("28 pictures turned as their EXIF says" in line for line in described([data]))


@pytest.mark.parametrize("frame", ["stored", "shown"])
def test_some_pairs_that_tell_decide_for_squares(tmp_path, frame):
    photographs(tmp_path, [6, 1, 8, 3] * 6, frame)
    for k in range(3):  # squares, which do not tell by themselves
        classes = np.random.default_rng(k).integers(0, 3, (8, 8)).astype(np.uint8)
        stored = np.stack([classes * 40, classes, np.full_like(classes, 99)], -1)
        labels = classes if frame == "stored" else shown_as(classes, 6)
        Image.fromarray(stored).save(tmp_path / f"images/{k}.png", exif=with_orientation(6))
        Image.fromarray(labels).save(tmp_path / f"labels/{k}.png")
    assert agreement(folder_data(tmp_path, image_size=8)) == 1.0


def test_where_no_size_tells_maps_lie_as_shown_and_it_is_said(tmp_path):
    data = folder_data(photographs(tmp_path, [3, 1] * 12, "shown"), image_size=8)
    assert agreement(data) == 1.0
    reason = "segmentation maps taken to lie as shown: their size does not tell"
    assert data.summary["orientation"][reason] == {"count": 12}


def test_a_map_with_an_orientation_of_its_own_is_turned_by_that(tmp_path):
    made = photographs(tmp_path, [6, 3, 8, 1] * 6, "stored", own_exif=True)
    assert agreement(folder_data(made, image_size=8)) == 1.0


def test_nothing_is_said_where_nothing_is_turned(tmp_path):
    data = folder_data(photographs(tmp_path, [1] * 24, "stored"), image_size=8)
    assert "orientation" not in data.summary and agreement(data) == 1.0
