"""Several --feedback in one run: what one is measured on, no other trains on."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vfunc.config.layers import Layer
from vfunc.errors import UserError
from vfunc.training.build.configuration import resolve
from vfunc.training.build.vision_config import VisionConfig
from vfunc.training.build.vision_sources import read_data
from vfunc.vision.data.duplicates import sources_apart
from vfunc.vision.data.file_sources import PictureFiles
from vfunc.vision.data.folders import folder_data

TRAINED = ("heads", "feedback", "held_out", "fit")


@pytest.fixture
def two(tmp_path):
    """Pictures with label maps, and half of the same pictures, by other names, with depth."""
    draws = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (tmp_path / "classes" / kind).mkdir(parents=True)
    for kind in ("images", "depth"):
        (tmp_path / "room" / kind).mkdir(parents=True)
    for k in range(40):
        picture = tmp_path / "classes" / "images" / f"{k}.png"
        Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(picture)
        labels = np.full((8, 8), k % 2, np.uint8)
        Image.fromarray(labels).save(tmp_path / "classes" / "labels" / f"{k}.png")
        if k < 20:
            shutil.copy(picture, tmp_path / "room" / "images" / f"x{k}.png")
            depth = np.full((8, 8), 1000 + k, np.uint16)
            Image.fromarray(depth).save(tmp_path / "room" / "depth" / f"x{k}.png")
    return tmp_path


def read(two, stream=None):
    given = {"modality": "vision", "feedback": (str(two / "classes"), str(two / "room"))}
    if stream is not None:
        given["stream"] = (str(stream),)
    config = resolve(Layer(given, "test"))
    assert isinstance(config, VisionConfig)
    return read_data(config, 8)


def contents(source, role):
    return {entry.image.read_bytes() for entry in getattr(source, role).entries}


def streamed(source):
    assert isinstance(source.stream, PictureFiles)
    return {file for file in source.stream.files if isinstance(file, Path)}


def test_no_source_trains_on_what_another_is_measured_on(two):
    classes, room = read(two)
    for one, other in ((classes, room), (room, classes)):
        measured = contents(other, "test")
        assert not any(contents(one, role) & measured for role in TRAINED)
        assert not {file.read_bytes() for file in streamed(classes)} & measured
        assert (
            one.summary["pictures"] | {r: len(getattr(one, r)) for r in TRAINED}
            == (one.summary["pictures"])
        )
    # what the room is measured on lies between 14 and 19 of the 40 that have classes
    lost = {"held_out, measured on by another --feedback": {"count": 3}}
    assert classes.summary["left out"] == lost


def test_no_map_of_any_source_is_streamed(two):
    classes, room = read(two, stream=two)
    files = streamed(classes)
    assert not {file for file in files if file.parent.name in ("depth", "labels")}
    measured = contents(classes, "test") | contents(room, "test")
    assert not {file.read_bytes() for file in files} & measured
    assert classes.summary["pictures"]["stream"] == len(files)


def test_a_source_that_nothing_is_left_of(two):
    shutil.rmtree(two / "room")
    for part, names in (("train", range(20, 30)), ("val", range(12, 14)), ("test", range(12))):
        for kind in ("images", "labels"):
            (two / "other" / part / kind).mkdir(parents=True)
            for k in names:
                shutil.copy(two / "classes" / kind / f"{k}.png", two / "other" / part / kind)
    folders = (two / "classes", two / "other")
    sources = [folder_data(folder, image_size=8) for folder in folders]
    with pytest.raises(UserError, match="every picture for heads is one that another --feedback"):
        sources_apart(sources)
