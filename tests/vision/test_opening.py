"""Every picture is opened before training: what cannot be read is refused or left out, and told."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from vfunc.errors import UserError
from vfunc.vision.data.folders import folder_data
from vfunc.vision.data.pictures import read_image
from vfunc.vision.data.soundness import open_all
from vfunc.vision.evaluation.metrics import described

ROLES = ("heads", "feedback", "held_out", "fit", "test")


def photograph(path, number, size=(64, 96), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


def cut(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


def folder(root, count=24):
    for k in range(count):
        photograph(root / f"images/{k}.jpg", k, quality=95)
        labels = np.full((64, 96), k % 3, np.uint8)
        labels[0, 0] = (k + 1) % 3
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(labels).save(root / f"labels/{k}.png")
    return root


def test_a_truncated_jpeg_ends_nothing_halfway(tmp_path):
    folder(tmp_path / "own")
    for k in range(6):
        photograph(tmp_path / f"stream/{k}.jpg", 100 + k, quality=95)
    cut(tmp_path / "stream/3.jpg", 0.9)
    options = {"image_size": 32, "stream": tmp_path / "stream"}
    with pytest.raises(
        UserError, match=r"stream/3\.jpg: cannot be decoded.*1 of 6 files"
    ) as caught:
        folder_data(tmp_path / "own", **options)
    assert "\n" not in str(caught.value)
    data = folder_data(tmp_path / "own", bad_files="skip", **options)
    assert len(data.stream) == 5
    assert data.summary["stream"]["left out"]["files that cannot be read"] == 1
    assert any("1 files that cannot be read, of the stream" in s for s in described([data]))
    for k in range(len(data.stream)):
        data.stream[k]


def test_bad_files_are_listed_in_one_error_and_skipped_with_their_pairs(tmp_path):
    folder(tmp_path)
    for name in ("images/0.jpg", "images/7.jpg", "labels/9.png", "labels/15.png", "images/23.jpg"):
        cut(tmp_path / name)
    with pytest.raises(UserError, match=r"and 2 more: 5 of 48 files cannot be read") as caught:
        folder_data(tmp_path, image_size=32)
    assert str(caught.value).count("cannot be decoded") == 3
    data = folder_data(tmp_path, image_size=32, bad_files="skip")
    found = data.summary["left out"]["files that cannot be read"]
    assert found["count"] == 5 and len(found["first"]) == 3
    names = {e.name.rpartition("/")[2] for role in ROLES for e in getattr(data, role)}
    assert names <= {f"{k}.jpg" for k in range(24) if k not in (0, 7, 9, 15, 23)}
    assert any("5 files that cannot be read" in line for line in described([data]))


def test_all_bad_is_refused(tmp_path):
    folder(tmp_path)
    for k in range(24):
        (tmp_path / f"images/{k}.jpg").write_bytes(b"no picture")
    with pytest.raises(UserError, match="no picture for training can be read"):
        folder_data(tmp_path, image_size=32, bad_files="skip")


def test_a_cameras_mpo_is_a_jpeg(tmp_path):
    first, second = (Image.new("RGB", (32, 16), colour) for colour in ("red", "blue"))
    path = tmp_path / "a.jpg"
    first.save(path, format="MPO", save_all=True, append_images=[second])
    with Image.open(path) as picture:
        assert picture.format == "MPO"
    assert read_image(path)[:, 8, 8].tolist() == pytest.approx([255, 0, 0], abs=3)
    assert not open_all([path]).bad


@pytest.mark.parametrize("form", ["jpg", "png", "bmp", "tif", "webp"])
def test_a_file_cut_anywhere_is_found(tmp_path, form):
    lossless = {"lossless": True} if form == "webp" else {}
    whole = photograph(tmp_path / f"whole.{form}", 1, **lossless)
    assert not open_all([whole]).bad
    for number, share in enumerate((0.02, 0.3, 0.7, 0.95)):
        path = photograph(tmp_path / f"{number}.{form}", 1, **lossless)
        cut(path, share)
        with pytest.raises(UserError):
            read_image(path)
        assert path in open_all([path]).bad


def test_what_is_sound_is_not_opened_twice_unless_it_changed(tmp_path, monkeypatch):
    path = photograph(tmp_path / "a.jpg", 1)
    assert not open_all([path, path]).bad
    opened = []
    fault = "vfunc.vision.data.soundness._fault"
    monkeypatch.setattr(fault, lambda file, image: opened.append(file))
    open_all([path])
    assert not opened
    photograph(path, 2, size=(8, 8))
    open_all([path])
    assert opened == [path]
