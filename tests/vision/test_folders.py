"""Folders: which layouts are recognised, who is paired with whom, and which part serves for what."""

from __future__ import annotations

import json
import os
import warnings
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vfunc.config.layers import Layer
from vfunc.errors import UserError
from vfunc.training.build.configuration import resolve
from vfunc.training.build.vision_config import VisionConfig
from vfunc.training.build.vision_sources import read_data
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.file_sources import Cache, image_folder
from vfunc.vision.data.folder_layouts import Entry, find_pairs
from vfunc.vision.data.folders import folder_data
from vfunc.vision.data.listing import natural
from vfunc.vision.data.splits import split_pool
from vfunc.vision.data.vision_data import Labelled, Pictures, labelled_batch, stream_pictures

SHARED = Path(os.environ.get("VFUNC_DATA_DIR") or "real-data")
ROLES = ("heads", "feedback", "held_out", "fit", "test")


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def picture(number, size=(6, 8), channels=True):
    """A picture like no other number's."""
    shape = (*size, 3) if channels else size
    return np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)


def labels(number, size=(6, 8), classes=3):
    made = np.full(size, number % classes, np.uint8)
    made[0, 0] = (number + 1) % classes
    return made


def millimetres(number, size=(6, 8)):
    made = np.full(size, 1000 + number, np.uint16)
    made[-1, -1] = 0
    return made


def pairs_folder(root, count=24, start=0, images="images", maps=("labels",), classes=3):
    for k in range(start, start + count):
        save(root / images / f"{k}.png", picture(k))
        if "labels" in maps or "label" in maps:
            save(root / maps[0] / f"{k}.png", labels(k, classes=classes))
        if "depth" in maps:
            save(root / "depth" / f"{k}.png", millimetres(k))
    return root


def annotated_folder(root, **counts):
    start = 0
    for name, count in counts.items():
        for k in range(start, start + count):
            save(root / name / f"f_{k}.png", picture(k))
            save(root / f"{name}annot" / f"f_{k}.png", labels(k))
        start += count
    return root


def names(source):
    return [entry.image.name for entry in source.entries]


def numbers(source):
    return sorted(int("".join(c for c in name if c.isdigit())) for name in names(source))


def one_line(caught):
    assert "\n" not in str(caught.value)


# --- the stream


def test_a_stream_is_every_picture_below_in_natural_order(tmp_path):
    for name in ("10.png", "2.PNG", "b/1.jpg", "b/c/3.bmp", "a/7.webp", "a/8.tif"):
        save(tmp_path / name, picture(1))
    for name in ("notes.txt", ".hidden.png", "a/.DS_Store", "b/x.gif"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "._2.png").write_bytes(b"x")
    source = image_folder(tmp_path)
    found = [str(path.relative_to(tmp_path)) for path in source.files]
    assert found == ["2.PNG", "10.png", "a/7.webp", "a/8.tif", "b/1.jpg", "b/c/3.bmp"]
    assert source.ignored == 4 and len(source) == 6 and isinstance(source, Pictures)
    assert stream_pictures(source, 0, 2, 0)[0].shape == (3, 6, 8)


def test_linked_folders_are_followed_once(tmp_path):
    save(tmp_path / "real" / "1.png", picture(1))
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real" / "loop").symlink_to(tmp_path / "real")
    assert len(image_folder(tmp_path / "root")) == 1


@pytest.mark.parametrize("name, said", [("none", "there is no such folder"), ("f", "not a folder")])
def test_a_stream_that_is_no_folder(tmp_path, name, said):
    (tmp_path / "f").write_text("x")
    with pytest.raises(UserError, match=said):
        image_folder(tmp_path / name)


def test_an_empty_folder_is_refused(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UserError, match=r"no pictures .* are in it \(1 files of other kinds are\)"):
        image_folder(tmp_path)


def test_natural_order():
    assert sorted(["10.png", "9.png", "a2", "a10", "1.png"], key=natural) == [
        "1.png", "9.png", "10.png", "a2", "a10",
    ]  # fmt: skip


def test_the_cache_keeps_what_fits():
    read = []

    def reader(file):
        read.append(file)
        return torch.zeros(10, dtype=torch.uint8)

    cache = Cache(25)
    for _ in range(3):
        for file in ("a", "b", "c"):
            cache.get("image", Path(file), reader)
    assert [path.name for path in read] == ["a", "b", "c", "c", "c"] and cache.used == 20


# --- layouts


@pytest.mark.parametrize(
    "images, maps, kinds",
    [
        ("images", ("labels",), {"segmentation"}),
        ("images", ("depth",), {"depth"}),
        ("images", ("labels", "depth"), {"segmentation", "depth"}),
        ("image", ("label",), {"segmentation"}),
    ],
)
def test_pictures_beside_their_labels(tmp_path, images, maps, kinds):
    pairs_folder(tmp_path, 12, images=images, maps=maps)
    (pairs,) = find_pairs(tmp_path)
    assert [e.image.name for e in pairs.entries] == [f"{k}.png" for k in range(12)]
    for entry in pairs.entries:
        assert {k for k in ("segmentation", "depth") if getattr(entry, k)} == kinds
        for kind in kinds:
            assert getattr(entry, kind).stem == entry.image.stem
            assert getattr(entry, kind).parent != entry.image.parent


def test_other_suffixes_and_subfolders_pair_by_what_is_before_the_suffix(tmp_path):
    save(tmp_path / "images" / "a" / "x.1.jpg", picture(1))
    save(tmp_path / "images" / "b" / "x.1.jpg", picture(2))
    save(tmp_path / "labels" / "a" / "x.1.png", labels(1))
    save(tmp_path / "labels" / "b" / "x.1.png", labels(2))
    (pairs,) = find_pairs(tmp_path)
    assert all(e.image.parent.name == e.segmentation.parent.name for e in pairs.entries)


def test_annotated_names(tmp_path):
    annotated_folder(tmp_path, train=3, val=2, test=2, other=1)
    found = {pairs.name: pairs for pairs in find_pairs(tmp_path)}
    assert {name: pairs.split for name, pairs in found.items()} == {
        "train": "train", "val": "validation", "test": "test", "other": "train",
    }  # fmt: skip
    assert [e.segmentation.parent.name for e in found["val"].entries] == ["valannot"] * 2


def test_frames_of_sequences(tmp_path):
    for sequence in ("seq-02", "seq-10"):
        for k in (8, 16, 100):
            save(tmp_path / sequence / f"frame-{k}.color.png", picture(k))
            save(tmp_path / sequence / f"frame-{k}.depth.png", millimetres(k))
            (tmp_path / sequence / f"frame-{k}.pose.txt").write_text("1 0 0")
    (pairs,) = find_pairs(tmp_path)
    assert len(pairs.entries) == 6 and pairs.ignored == 6
    assert [e.image.name for e in pairs.entries[:3]] == [
        "frame-8.color.png", "frame-16.color.png", "frame-100.color.png",
    ]  # fmt: skip
    for entry in pairs.entries:
        assert entry.depth == Path(str(entry.image).replace("color", "depth"))


def test_parts_each_of_a_layout(tmp_path):
    pairs_folder(tmp_path / "train", 3)
    pairs_folder(tmp_path / "Validation", 2, start=3)
    assert [(p.name, p.split, len(p.entries)) for p in find_pairs(tmp_path)] == [
        ("Validation", "validation", 2), ("train", "train", 3),
    ]  # fmt: skip


def test_class_folders(tmp_path):
    for name in ("dog", "cat"):
        for k in range(2):
            save(tmp_path / "images" / name / f"{k}.png", picture(k))
    (pairs,) = find_pairs(tmp_path)
    assert [e.category for e in pairs.entries] == ["cat", "cat", "dog", "dog"]
    save(tmp_path / "images" / "loose.png", picture(9))
    with pytest.raises(UserError, match=r"loose\.png beside them"):
        find_pairs(tmp_path)


def test_two_layouts_at_once_are_refused_by_name(tmp_path):
    pairs_folder(tmp_path, 2)
    annotated_folder(tmp_path, train=2)
    with pytest.raises(UserError, match="ambiguous") as caught:
        find_pairs(tmp_path)
    assert "images/ with labels/" in str(caught.value)
    assert "train/ with trainannot/" in str(caught.value)
    one_line(caught)


def test_no_layout_lists_what_there_is(tmp_path):
    (tmp_path / "pictures").mkdir()
    with pytest.raises(UserError, match=r"holds pictures/; known are images/ with") as caught:
        find_pairs(tmp_path)
    one_line(caught)
    with pytest.raises(UserError, match="there is no such folder"):
        find_pairs(tmp_path / "none")


def test_none_matching_is_refused(tmp_path):
    save(tmp_path / "images" / "a.png", picture(1))
    save(tmp_path / "labels" / "a_mask.png", labels(1))
    with pytest.raises(UserError, match=r"no label has the name of a picture \(there is a_mask"):
        find_pairs(tmp_path)


def test_no_picture_is_refused(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(UserError, match=r"no picture .* is in it"):
        find_pairs(tmp_path)


def test_two_pictures_of_one_name_are_refused(tmp_path):
    pairs_folder(tmp_path, 2)
    save(tmp_path / "images" / "1.jpg", picture(5))
    with pytest.raises(UserError, match="has the same name"):
        find_pairs(tmp_path)


def test_missing_partners_are_counted_and_named(tmp_path):
    pairs_folder(tmp_path, 24)
    for k in (3, 4, 5, 6):
        (tmp_path / "labels" / f"{k}.png").unlink()
    (tmp_path / "images" / "9.png").unlink()
    data = folder_data(tmp_path, image_size=8)
    left = data.summary["left out"]
    assert left["pictures without a label"]["count"] == 4
    assert [Path(p).name for p in left["pictures without a label"]["first"]] == [
        "3.png", "4.png", "5.png",
    ]  # fmt: skip
    assert left["labels without a picture"]["count"] == 1
    used = {n for role in ROLES for n in numbers(getattr(data, role))}
    assert not used & {3, 4, 5, 6, 9}


# --- roles


def test_no_picture_has_two_roles_and_blocks_are_contiguous(tmp_path):
    pairs_folder(tmp_path, 40)
    parts = {}
    for split in ("validation", "test"):
        data = folder_data(tmp_path, image_size=8, split=split)
        assert all(isinstance(getattr(data, role), Labelled) for role in ROLES)
        parts[split] = numbers(data.test)
        roles = {role: numbers(getattr(data, role)) for role in ROLES}
        for a, b in combinations(ROLES, 2):
            assert not set(roles[a]) & set(roles[b])
            # frames next to one another never have two roles
            assert min(abs(i - j) for i in roles[a] for j in roles[b]) >= 2
        for frames in roles.values():
            assert frames == list(range(frames[0], frames[-1] + 1))
        streamed = {int(p.stem) for p in data.stream.files}
        assert streamed == {*roles["heads"], *roles["feedback"], *roles["fit"]}
    # validation and test are blocks of their own, whichever is asked for
    assert not set(parts["validation"]) & set(parts["test"])


def test_all_frames_but_the_gaps_are_used(tmp_path):
    entries = [Entry(Path(f"v/{k}.png")) for k in range(100)]
    roles = split_pool(entries, {})
    assert sum(map(len, roles.values())) == 95
    sizes = {role: len(part) for role, part in roles.items()}
    assert sizes == {
        "heads": 15, "feedback": 19, "held_out": 12, "fit": 16, "validation": 14, "test": 19,
    }  # fmt: skip


def test_every_video_is_split(tmp_path):
    entries = [Entry(Path(f"v/{v}_{k:03}.png")) for v in ("a", "b") for k in range(40)]
    for part in split_pool(entries, {}).values():
        videos = [entry.image.name[0] for entry in part]
        assert {"a", "b"} == set(videos)
        frames = [int(entry.image.stem[2:]) for entry in part]
        for video in "ab":
            of = [k for k, v in zip(frames, videos, strict=True) if v == video]
            assert of == list(range(of[0], of[-1] + 1))


def test_short_videos_are_joined(tmp_path):
    entries = [Entry(Path(f"v{v}/{k}.png")) for v in range(10) for k in range(4)]
    order = {entry: n for n, entry in enumerate(entries)}
    for part in split_pool(entries, {}).values():
        at = [order[entry] for entry in part]
        assert at == list(range(at[0], at[-1] + 1))


def test_a_shuffled_split_is_disjoint_and_not_contiguous():
    entries = [Entry(Path(f"{k}.png")) for k in range(100)]
    roles = split_pool(entries, {}, shuffle=True, seed=1)
    at = {role: {int(e.image.stem) for e in part} for role, part in roles.items()}
    assert sum(map(len, at.values())) == len(set().union(*at.values())) == 100
    assert max(at["heads"]) - min(at["heads"]) > 2 * len(at["heads"])


def test_named_parts_keep_their_meaning(tmp_path):
    annotated_folder(tmp_path, train=30, val=5, test=4)
    for split, measured in (("validation", range(30, 35)), ("test", range(35, 39))):
        data = folder_data(tmp_path, image_size=8, split=split)
        assert numbers(data.test) == list(measured)
        training = {n for role in ROLES[:4] for n in numbers(getattr(data, role))}
        assert training <= set(range(30))
        assert {int(p.stem[2:]) for p in data.stream.files} <= set(range(30))


def test_a_missing_test_part_is_a_block_of_the_training_part(tmp_path):
    annotated_folder(tmp_path, train=40, val=5)
    (tmp_path / "test").mkdir()
    data = folder_data(tmp_path, image_size=8, split="test")
    assert set(numbers(data.test)) < set(range(40))
    assert data.summary["left out"]["folders without labels"]["first"] == ["test"]
    assert numbers(folder_data(tmp_path, image_size=8).test) == list(range(40, 45))


def test_a_folder_to_measure_on(tmp_path):
    pairs_folder(tmp_path / "a", 24)
    pairs_folder(tmp_path / "b", 4, start=24)
    data = folder_data(tmp_path / "a", image_size=8, eval_dir=tmp_path / "b")
    assert numbers(data.test) == [24, 25, 26, 27]
    assert max(n for role in ROLES[:4] for n in numbers(getattr(data, role))) >= 22
    annotated_folder(tmp_path / "c", val=3, test=2)
    data = folder_data(tmp_path / "a", image_size=8, eval_dir=tmp_path / "c", split="test")
    assert len(data.test) == 2
    annotated_folder(tmp_path / "d", val=3)
    with pytest.raises(UserError, match="has no part for test, but val"):
        folder_data(tmp_path / "a", image_size=8, eval_dir=tmp_path / "d", split="test")


def test_copies_of_a_measured_picture_are_left_out_of_training_and_stream(tmp_path):
    annotated_folder(tmp_path, train=30, val=5, test=5)
    copy = (tmp_path / "val" / "f_31.png").read_bytes()
    (tmp_path / "train" / "f_2.png").write_bytes(copy)
    data = folder_data(tmp_path, image_size=8)
    assert all("f_2.png" not in names(getattr(data, role)) for role in ROLES)
    assert data.summary["left out"]["heads, in another role too"]["count"] == 1
    assert "f_2.png" not in [p.name for p in data.stream.files]


def test_a_stream_folder_gives_neither_labels_nor_measured_pictures(tmp_path):
    annotated_folder(tmp_path / "own", train=30, val=5, test=5)
    save(tmp_path / "own" / "more" / "extra.png", picture(99))
    (tmp_path / "own" / "more" / "copy.png").write_bytes(
        (tmp_path / "own" / "test" / "f_36.png").read_bytes()
    )
    data = folder_data(tmp_path / "own", image_size=8, stream=tmp_path / "own")
    found = {str(p.relative_to(tmp_path / "own")) for p in data.stream.files}
    assert found == {f"train/f_{k}.png" for k in range(30)} | {"more/extra.png"}
    assert data.summary["stream"]["left out"] == {
        "label maps": 40, "pictures that are measured on": 11, "files of other kinds": 0,
    }  # fmt: skip


def test_the_label_maps_of_another_labelled_folder_are_no_stream(tmp_path):
    pairs_folder(tmp_path / "a", 24)
    pairs_folder(tmp_path / "b", 3, start=50)
    data = folder_data(tmp_path / "a", image_size=8, stream=tmp_path / "b")
    assert [p.parent.name for p in data.stream.files] == ["images"] * 3


def test_a_stream_of_measured_pictures_alone_is_refused(tmp_path):
    annotated_folder(tmp_path, train=30, val=5, test=5)
    with pytest.raises(UserError, match="no others"):
        folder_data(tmp_path, image_size=8, stream=tmp_path / "val")


def test_a_stream_may_be_given(tmp_path):
    pairs_folder(tmp_path, 24)
    given = image_folder(tmp_path / "images")
    assert folder_data(tmp_path, image_size=8, stream=given).stream is given


def test_counts_thin_evenly_and_the_seed_orders(tmp_path):
    pairs_folder(tmp_path, 60)
    whole, other = (folder_data(tmp_path, image_size=8, seed=s) for s in (0, 1))
    few = folder_data(tmp_path, image_size=8, counts={"feedback": 4, "test": 3, "fit": 1000})
    frames = numbers(whole.feedback)
    assert numbers(few.feedback) == [frames[k * len(frames) // 4] for k in range(4)]
    assert len(few.test) == 3 and len(few.fit) == len(whole.fit)
    assert few.summary["pictures"]["feedback"] == 4
    assert names(whole.feedback) != names(other.feedback)
    assert numbers(whole.feedback) == numbers(other.feedback)
    assert names(whole.test) == names(other.test) and names(whole.fit) == names(other.fit)
    # a batch is read in order: it must not be of neighbours
    assert names(whole.feedback) != [f"{k}.png" for k in numbers(whole.feedback)]
    with pytest.raises(UserError, match="banana: no split"):
        folder_data(tmp_path, image_size=8, counts={"banana": 4})


def test_too_few_pictures_say_how_many_are_needed(tmp_path):
    pairs_folder(tmp_path, 7)
    with pytest.raises(UserError, match="7 pictures are too few"):
        folder_data(tmp_path, image_size=8)


# --- labels


def test_classes_are_counted_from_the_largest_and_void_is_ignored(tmp_path):
    pairs_folder(tmp_path, 24, classes=5)
    data = folder_data(tmp_path, image_size=(6, 8), void=4)
    assert data.classes == {"segmentation": 4} and data.tasks == ("segmentation",)
    for example in (data.fit[0], data.test[0]):
        number = int(Path(example.name).stem)
        expected = torch.from_numpy(labels(number, classes=5)).long()
        expected[expected == 4] = IGNORE
        assert torch.equal(example.segmentation.long(), expected)
        assert torch.equal(example.image, torch.from_numpy(picture(number)).permute(2, 0, 1))
    batch = labelled_batch(data.feedback, range(2), data.image_size)
    assert batch.segmentation.dtype == torch.int64 and batch.images.shape == (2, 3, 6, 8)


def test_binary_is_decided_by_all_maps_together(tmp_path):
    for k in range(24):
        save(tmp_path / "image" / f"{k}.png", picture(k, channels=False))
        save(tmp_path / "label" / f"{k}.png", np.full((6, 8), 255 * (k % 2), np.uint8))
    data = folder_data(tmp_path, image_size=8)
    assert data.classes == {"segmentation": 2}
    found = {int(Path(e.name).stem) % 2: e.segmentation.unique().tolist() for e in data.feedback}
    assert found == {0: [0], 1: [1]}
    # one more class anywhere, and 255 can only be void
    save(tmp_path / "label" / "1.png", np.full((6, 8), 1, np.uint8))
    with pytest.raises(UserError, match="say --void-label 255") as caught:
        folder_data(tmp_path, image_size=8)
    one_line(caught)
    data = folder_data(tmp_path, image_size=8, void=255)
    assert data.classes == {"segmentation": 2}
    other = folder_data(tmp_path, image_size=8, void=255, split="test")
    used = {n for d in (data, other) for role in ROLES for n in numbers(getattr(d, role))}
    void = sum(n % 2 and n != 1 for n in used)
    assert void > 3 and data.summary["segmentation"]["label maps all void"] == void


def array_folder(root, value):
    """Pictures with label arrays of two classes, and one other value in each."""
    for k in range(16):
        save(root / "images" / f"{k}.png", picture(k))
        made = labels(k, classes=2).astype(np.int64)
        made[1, 1] = value
        (root / "labels").mkdir(exist_ok=True)
        np.save(root / "labels" / f"{k}.npy", made)
    return root


def read_as_configured(given):
    config = resolve(Layer({"modality": "vision"} | given, "test"))
    assert isinstance(config, VisionConfig)
    return read_data(config, 8)


def test_void_may_be_negative_in_arrays_as_the_refusal_says(tmp_path):
    given = {"feedback": (str(array_folder(tmp_path, -1)),)}
    with pytest.raises(UserError, match="class -1 is negative; say --void-label -1"):
        read_as_configured(given)
    (data,) = read_as_configured(given | {"void_label": -1})
    assert data.classes == {"segmentation": 2}
    assert int((data.test[0].segmentation == IGNORE).sum()) == 1


def test_a_label_too_large_to_be_counted_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"\.npy: the label map holds 10000000000, which is no"):
        folder_data(array_folder(tmp_path, 10**10), image_size=8)


def test_a_class_without_a_training_picture_counts_and_is_named(tmp_path):
    annotated_folder(tmp_path, train=30, val=5, test=5)
    save(tmp_path / "testannot" / "f_36.png", np.full((6, 8), 4, np.uint8))
    data = folder_data(tmp_path, image_size=8)
    assert data.classes == {"segmentation": 5}
    assert data.summary["segmentation"]["classes without a training pixel"] == [4]


@pytest.mark.parametrize(
    "values, void, said",
    [
        ([11], 11, "every pixel of all label maps is void"),
        ([3], None, "hold class 3 alone"),
        ([0, 128], None, "hold 0, 128, which are no indices"),
    ],
)
def test_label_values_that_are_refused(tmp_path, values, void, said):
    pairs_folder(tmp_path, 24)
    for k in range(24):
        save(tmp_path / "labels" / f"{k}.png", np.full((6, 8), values[k % len(values)], np.uint8))
    with pytest.raises(UserError, match=said) as caught:
        folder_data(tmp_path, image_size=8, void=void)
    one_line(caught)


@pytest.mark.parametrize("kind, make", [("labels", labels), ("depth", millimetres)])
def test_a_size_mismatch_names_both(tmp_path, kind, make):
    pairs_folder(tmp_path, 24, maps=(kind,))
    save(tmp_path / kind / "5.png", make(5, size=(8, 6)))
    with pytest.raises(UserError, match=r"images/5\.png is 6x8 .*5\.png is 8x6") as caught:
        folder_data(tmp_path, image_size=8)
    one_line(caught)


def test_depth_is_scaled(tmp_path):
    pairs_folder(tmp_path, 24, maps=("depth",))
    data = folder_data(tmp_path, image_size=8, depth_scale=0.01)
    assert data.tasks == ("depth",) and data.classes == {}
    example = data.test[0]
    number = int(Path(example.name).stem)
    expected = torch.full((6, 8), (1000 + number) / 100)
    expected[-1, -1] = 0
    torch.testing.assert_close(example.depth, expected)


def test_tasks_are_chosen_and_labels_not_asked_for_are_not_read(tmp_path):
    pairs_folder(tmp_path, 24, maps=("labels", "depth"))
    both = folder_data(tmp_path, image_size=8)
    assert both.tasks == ("segmentation", "depth")
    assert both.test[0].segmentation is not None and both.test[0].depth is not None
    (tmp_path / "depth" / "1.png").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"depth/1\.png"):
        folder_data(tmp_path, image_size=8)
    data = folder_data(tmp_path, image_size=8, tasks=("segmentation",))
    assert data.tasks == ("segmentation",) and all(e.depth is None for e in data.feedback)
    with pytest.raises(
        UserError, match="no labels for classification, but for segmentation, depth"
    ):
        folder_data(tmp_path, image_size=8, tasks=("classification",))
    (tmp_path / "other").mkdir()
    pairs_folder(tmp_path / "other", 24, maps=("depth",))
    with pytest.raises(UserError, match="--void-label 3"):
        folder_data(tmp_path / "other", image_size=8, void=3)


def test_classes_of_pictures(tmp_path):
    number = 0
    for name in ("dog", "cat"):
        for _ in range(12):
            save(tmp_path / "images" / name / f"{number}.png", picture(number))
            number += 1
    data = folder_data(tmp_path, image_size=8)
    assert data.classes == {"classification": 2}
    assert data.names == {"classification": ("cat", "dog")}
    for role in ROLES:
        found = {(e.label, Path(e.name).parent.name) for e in getattr(data, role)}
        assert found == {(0, "cat"), (1, "dog")}  # every role sees every class


def test_a_class_of_too_few_pictures_is_named(tmp_path):
    for number in range(20):
        folder = tmp_path / ("rare" if number < 3 else "common")
        save(folder / f"{number}.png", picture(number))
    with pytest.raises(UserError, match=r"class rare \(.*0\.png, \.\.\.\): 3 pictures are too few"):
        folder_data(tmp_path, image_size=8)


def test_a_corrupt_picture_is_named_before_anything_is_trained(tmp_path):
    pairs_folder(tmp_path, 24)
    path = tmp_path / "images" / "0.png"
    data = path.read_bytes()
    path.write_bytes(data[:60])
    with pytest.raises(
        UserError, match=r"images/0\.png.*cut off.*1 of 48 files .*--bad-files skip"
    ):
        folder_data(tmp_path, image_size=8)


def test_reading_warns_nobody_and_the_summary_is_plain(tmp_path):
    pairs_folder(tmp_path, 24)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = folder_data(tmp_path, image_size=8)
        assert len(list(data.test)) == len(data.test)
    assert json.loads(json.dumps(data.summary)) == data.summary


# --- real folders


@pytest.mark.parametrize(
    "name, options, task, classes, sizes",
    [
        ("camvid", {"void": 11}, "segmentation", 11, (180, 240)),
        ("em_membrane", {}, "segmentation", 2, (512, 512)),
        ("rgbd", {}, "depth", None, (240, 320)),
    ],
)
def test_real_folders(name, options, task, classes, sizes):
    if not (SHARED / name).is_dir():
        pytest.skip(f"VFUNC_DATA_DIR names no folder with {name}")
    data = folder_data(SHARED / name, image_size=32, split="test", **options)
    assert data.tasks == (task,) and data.classes.get(task) == classes
    assert not data.summary["left out"].get("pictures without a label")
    roles = {role: set(names(getattr(data, role))) for role in ROLES}
    assert all(not roles[a] & roles[b] for a, b in combinations(ROLES, 2))
    example = data.test[0]
    assert tuple(example.image.shape[1:]) == sizes
    if task == "depth":
        known = example.depth[example.depth > 0]
        assert 0.3 < known.median() < 6 and known.max() < 12  # one room
    if name == "camvid":
        assert len(data.test) == 233
        assert not any("annot" in str(path) for path in data.stream.files)


@pytest.mark.parametrize(
    "images, maps", [("images", "masks"), ("image", "mask"), ("JPEGImages", "SegmentationClass")]
)
def test_masks_beside_pictures_and_pascal_voc(tmp_path, images, maps):
    for k in range(24):
        save(tmp_path / images / f"{k}.jpg", picture(k))
        values = labels(k)
        values[1, 1] = 255 if images == "JPEGImages" else 0
        mask = Image.fromarray(values)
        mask.putpalette([value % 256 for value in range(3, 771)])  # colours, which are not read
        (tmp_path / maps).mkdir(exist_ok=True)
        mask.save(tmp_path / maps / f"{k}.png")
    data = folder_data(tmp_path, image_size=8)
    assert data.classes == {"segmentation": 3}
    example = data.test[0]
    assert (example.segmentation[1, 1] == IGNORE) == (images == "JPEGImages")
    number = int(Path(example.name).stem)
    assert example.segmentation[2, 2] == number % 3
