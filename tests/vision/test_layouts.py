"""Layouts of other data sets: ImageFolder's class folders, and the lists of Pascal VOC."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vfunc.errors import UserError
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.file_sources import PictureFiles
from vfunc.vision.data.folder_layouts import find_pairs
from vfunc.vision.data.folders import folder_data
from vfunc.vision.evaluation.metrics import described

ROLES = ("heads", "feedback", "held_out", "fit", "test")


def save(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def class_folder(root, start=0, count=12, names=("dog", "cat")):
    for number, name in enumerate(names):
        for k in range(count):
            save(root / name / f"{k}.png", start + number * count + k)
    return root


def voc_folder(root, count=24, masked=None, objects=True, **lists):
    """A picture each of 0.jpg, ..., masks of those in `masked`, and lists of numbers."""
    for k in range(count):
        save(root / "JPEGImages" / f"{k}.jpg", k)
    for k in range(count) if masked is None else masked:
        values = np.full((6, 8), k % 3, np.uint8)
        values[0, 0] = (k + 1) % 3
        values[1, 1] = 255
        mask = Image.fromarray(values)
        mask.putpalette([value % 256 for value in range(7, 775)])
        for name in ("SegmentationClass", *(["SegmentationObject"] if objects else [])):
            (root / name).mkdir(exist_ok=True)
            mask.save(root / name / f"{k}.png")
    for name, numbers in lists.items():
        write_list(root, name, "".join(f"{k}\n" for k in numbers))
    return root


def write_list(root, name, text):
    path = root / "ImageSets" / "Segmentation" / f"{name}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def numbers(entries):
    return [int(Path(str(entry.image)).stem) for entry in entries]


def parts(root):
    return {pairs.split: numbers(pairs.entries) for pairs in find_pairs(root)}


def streamed(data):
    """The folders that the stream's pictures lie in."""
    return {Path(str(file)).parent.name for file in data.stream.files}


def complaint(root, **options):
    with pytest.raises(UserError) as caught:
        folder_data(root, image_size=8, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- ImageFolder


def test_class_folders_need_no_images_folder(tmp_path):
    class_folder(tmp_path)
    (tmp_path / "classes.txt").write_text("dog cat")
    (tmp_path / "meta").mkdir()
    data = folder_data(tmp_path, image_size=8)
    assert data.tasks == ("classification",) and data.classes == {"classification": 2}
    assert data.names == {"classification": ("cat", "dog")}
    assert f"{'':9} read as class folders, 2 classes: cat, dog" in described([data])
    assert data.summary["left out"] == {
        "class folders without pictures": {"count": 1, "first": ["meta"]},
        "files of other kinds": {"count": 1},
    }
    for role in ROLES:
        found = {(e.label, Path(e.name).parent.name) for e in getattr(data, role)}
        assert found == {(0, "cat"), (1, "dog")}


def test_class_folders_in_parts(tmp_path):
    class_folder(tmp_path / "train")
    class_folder(tmp_path / "val", start=100, count=3)
    assert {p.split: {e.category for e in p.entries} for p in find_pairs(tmp_path)} == {
        "train": {"cat", "dog"}, "validation": {"cat", "dog"},
    }  # fmt: skip
    data = folder_data(tmp_path, image_size=8, split="validation")
    assert {Path(e.name).parents[1].name for e in data.test} == {"val"} and len(data.test) == 6
    apart = folder_data(
        tmp_path / "train", image_size=8, eval_dir=class_folder(tmp_path / "new", start=200)
    )
    assert len(apart.test) == 24


def test_pictures_deeper_in_a_class_are_of_it(tmp_path):
    class_folder(tmp_path, count=2)
    save(tmp_path / "dog" / "small" / "7.png", 77)
    (pairs,) = find_pairs(tmp_path)
    assert [e.category for e in pairs.entries] == ["cat", "cat", "dog", "dog", "dog"]


@pytest.mark.parametrize("other", ["masks", "gt", "Depth", "train", "val", "skyannot", "img"])
def test_folders_of_another_meaning_are_no_classes(tmp_path, other):
    class_folder(tmp_path, names=("road", other))
    message = complaint(tmp_path)
    assert f"not with {other}/ among them" in message and "holds" in message


def test_data_sets_beside_each_other_are_no_classes(tmp_path):
    for year in ("VOC2007", "VOC2012"):
        voc_folder(tmp_path / "voc" / year, 12)
        class_folder(tmp_path / "parts" / year / "train")
    assert "holds VOC2007/, VOC2012/; known are" in complaint(tmp_path / "voc")
    assert "holds VOC2007/, VOC2012/; known are" in complaint(tmp_path / "parts")


def test_one_class_is_no_classification(tmp_path):
    class_folder(tmp_path, names=("dog",))
    assert "known are" in complaint(tmp_path)
    class_folder(tmp_path / "images", names=("dog",), count=24)
    assert "needs two classes" in complaint(tmp_path)


def test_parts_are_no_classes_below_images_either(tmp_path):
    class_folder(tmp_path / "images", names=("train", "val"))
    assert "known are" in complaint(tmp_path)


def test_a_picture_beside_class_folders_is_named(tmp_path):
    class_folder(tmp_path)
    save(tmp_path / "loose.png", 99)
    assert "loose.png beside them" in complaint(tmp_path)


def test_sequences_with_depth_are_no_classes(tmp_path):
    for name in ("seq-01", "seq-02"):
        save(tmp_path / name / "frame-0.color.png", 1)
        save(tmp_path / name / "frame-0.depth.png", 2)
    (pairs,) = find_pairs(tmp_path)
    assert pairs.layout == "*.color.* with *.depth.*"


# --- the lists of Pascal VOC


def test_lists_name_the_parts(tmp_path):
    voc_folder(tmp_path, 40, train=range(24), val=range(24, 30), trainval=range(30))
    assert parts(tmp_path) == {"train": list(range(24)), "validation": list(range(24, 30))}
    data = folder_data(tmp_path, image_size=8, stream=tmp_path, split="validation")
    assert sorted(int(Path(e.name).stem) for e in data.test) == list(range(24, 30))
    assert data.classes == {"segmentation": 3}
    example = data.test[0]
    number = int(Path(example.name).stem)
    assert example.segmentation is not None
    assert example.segmentation[1, 1] == IGNORE and example.segmentation[3, 3] == number % 3
    assert data.summary["layout"] == ["JPEGImages/ with SegmentationClass/, parts by ImageSets/"]
    unlisted = data.summary["left out"]["labelled pictures that no list names"]
    assert unlisted["count"] == 10
    used = {Path(e.name).stem for role in ROLES for e in getattr(data, role)}
    assert not used & {str(k) for k in range(30, 40)}
    # no map is a picture: neither of objects nor of pictures that no list names
    assert isinstance(data.stream, PictureFiles)
    assert streamed(data) == {"JPEGImages"}
    assert len(data.stream.files) == 40 - 6 - 4  # without what validation and test measure on


def test_maps_of_objects_are_no_pictures_without_lists_either(tmp_path):
    data = folder_data(voc_folder(tmp_path), image_size=8, stream=tmp_path)
    assert streamed(data) == {"JPEGImages"}


@pytest.mark.parametrize(
    ("lists", "train", "validation"),
    [
        ({"train": range(4), "trainval": range(6)}, range(4), range(4, 6)),
        ({"val": range(4), "trainval": range(6)}, range(4, 6), range(4)),
        ({"trainval": range(6)}, range(6), None),
        ({"train": range(6)}, range(6), None),
        ({"train": range(6), "trainval": range(6)}, range(6), None),
        ({"val": range(6)}, None, range(6)),
        ({"train": [11, 2, 10, 2]}, [2, 10, 11], None),
    ],
)
def test_what_lists_leave_open(tmp_path, lists, train, validation):
    voc_folder(tmp_path, 12, **lists)
    expected = {"train": train, "validation": validation}
    assert parts(tmp_path) == {k: list(v) for k, v in expected.items() if v is not None}


def test_pictures_without_masks_are_no_error(tmp_path):
    voc_folder(tmp_path, 40, masked=range(26), train=range(28), test=range(30, 40))
    data = folder_data(tmp_path, image_size=8, split="test")
    assert data.summary["left out"] == {
        "pictures without a label": {
            "count": 2, "first": [str(tmp_path / "JPEGImages" / f"{k}.jpg") for k in (26, 27)],
        },
        "pictures of test.txt, none of which has a label": {
            "count": 10, "first": ["30", "31", "32"],
        },
    }  # fmt: skip
    assert {int(Path(e.name).stem) for e in data.test} <= set(range(26))


def test_a_list_with_windows_line_ends_and_blanks(tmp_path):
    voc_folder(tmp_path, 6)
    write_list(tmp_path, "train", "\ufeff1\r\n 3 \r\n\r\n2\r\n")
    assert parts(tmp_path) == {"train": [1, 2, 3]}


def test_other_lists_are_not_read(tmp_path):
    voc_folder(tmp_path, 6, mine=[1])
    assert parts(tmp_path) == {"train": list(range(6))}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1\n99\n", "train.txt: names 99, of which"),
        ("98\n1\n99\n", "train.txt: names 98 and 1 more, of which"),
        ("\n \n", "train.txt: names no picture"),
    ],
)
def test_lists_that_do_not_fit_are_refused_by_name(tmp_path, text, said):
    voc_folder(tmp_path, 6)
    write_list(tmp_path, "train", text)
    assert said in complaint(tmp_path)


def test_a_list_that_is_no_text(tmp_path):
    voc_folder(tmp_path, 6)
    write_list(tmp_path, "train", "x").write_bytes(b"\xff\xfe1")
    assert "train.txt: cannot be read (not UTF-8 text)" in complaint(tmp_path)


def test_lists_of_pictures_without_labels_alone(tmp_path):
    voc_folder(tmp_path, 6, masked=[0], train=[1, 2])
    assert "none of the pictures listed there has a label" in complaint(tmp_path)


def test_a_part_for_evaluation_alone(tmp_path):
    voc_folder(tmp_path / "a", 24, objects=False)
    voc_folder(tmp_path / "b", 40, val=range(30, 40))
    data = folder_data(tmp_path / "a", image_size=8, eval_dir=tmp_path / "b", split="validation")
    assert len(data.test) == 10
    assert "has no part for test, but val" in complaint(
        tmp_path / "a", eval_dir=tmp_path / "b", split="test"
    )
