"""Public data sets: label maps value by value, tiny copies of each layout, a stand-in for the Hub."""

from __future__ import annotations

from io import BytesIO
from itertools import combinations, pairwise

import datasets
import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

from vfunc.errors import UserError
from vfunc.vision.data import hub_pictures
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.public import open_public, parse_public, public_data, public_pictures
from vfunc.vision.data.public_sets import ade20k_labels, nyuv2_depth
from vfunc.vision.data.vision_data import labelled_batch

ROLES = ("heads", "feedback", "held_out", "fit", "test")
FEW = {"heads": 6, "feedback": 4, "held_out": 2, "fit": 5, "validation": 3}


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def picture(number, size=(6, 8)):
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def ade20k(root, training=30, validation=4):
    number = 0
    for part, count in (("training", training), ("validation", validation)):
        for _ in range(count):
            number += 1
            stem = f"ADE_{part[:5]}_{number:08}"
            save(root / "images" / part / f"{stem}.jpg", picture(number))
            label = np.full((6, 8), number % 151, np.uint8)
            save(root / "annotations" / part / f"{stem}.png", label)
    return root


def nyuv2(root, train="sync", test="official_splits/test"):
    for number in range(60):
        scene = root / train / f"room_{number // 30}"
        save(scene / f"rgb_{number:05}.png", picture(number))
        save(scene / f"sync_depth_{number:05}.png", np.full((6, 8), 1000 + number, np.uint16))
    for number in range(100, 104):
        save(root / test / "hall" / f"rgb_{number:05}.png", picture(number))
        depth = np.full((6, 8), 1000 + number, np.uint16)
        save(root / test / "hall" / f"sync_depth_{number:05}.png", depth)
    return root


def imagenet(root):
    number = 0
    for part, count in (("train", 12), ("val", 2)):
        for name in ("n02", "n01", "n10"):
            for _ in range(count):
                number += 1
                save(root / part / name / f"{number}.JPEG", picture(number))
    return root


def names(source):
    return [str(entry.image) for entry in source.entries]


# --- label maps


def test_ade20k_labels_value_by_value(tmp_path):
    raw = np.arange(151, dtype=np.uint8)[None]
    labels = ade20k_labels(save(tmp_path / "a.png", raw))
    assert labels.tolist() == [[IGNORE, *range(150)]]


def test_ade20k_labels_of_0_and_void_like_values_alone(tmp_path):
    assert ade20k_labels(save(tmp_path / "a.png", np.zeros((1, 2), np.uint8))).eq(IGNORE).all()
    with pytest.raises(UserError, match="value 255 is none of ADE20K's labels") as caught:
        ade20k_labels(save(tmp_path / "b.png", np.array([[0, 255]], np.uint8)))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="value 151"):
        ade20k_labels(save(tmp_path / "c.png", np.array([[3, 151]], np.uint8)))


def test_nyuv2_depth_value_by_value(tmp_path):
    raw = np.array([[0, 1, 2, 9999, 10000, 10001, 65535]], np.uint16)
    depth = nyuv2_depth(save(tmp_path / "a.png", raw))
    expected = torch.tensor([[0, 0.001, 0.002, 9.999, 10, 0, 0]])
    torch.testing.assert_close(depth, expected, rtol=0, atol=1e-7)
    np.save(tmp_path / "b.npy", np.array([[5e-4, 2.5, 11, np.nan]], np.float32))
    assert nyuv2_depth(tmp_path / "b.npy").tolist() == [[0, 2.5, 0, 0]]


# --- local copies


def test_ade20k_copy(tmp_path):
    ade20k(tmp_path / "ADEChallengeData2016")
    for root in (tmp_path, tmp_path / "ADEChallengeData2016"):
        train, test = (open_public("ade20k", root, part) for part in ("train", "test"))
        assert (len(train), len(test)) == (30, 4)
    for example in train:
        number = int(example.name[-12:-4])
        assert example.segmentation.unique().tolist() == [number - 1]
    assert len(open_public("ade20k", tmp_path, "train", limit=7)) == 7


def test_an_incomplete_ade20k_copy(tmp_path):
    ade20k(tmp_path)
    gone = tmp_path / "annotations" / "training" / "ADE_train_00000003.png"
    gone.unlink()
    with pytest.raises(UserError, match=r"1 of 30 pictures have nothing .* ADE_train_00000003"):
        open_public("ade20k", tmp_path, "train")
    with pytest.raises(UserError, match="there is no images/training/"):
        open_public("ade20k", tmp_path / "images", "train")


def test_a_label_map_of_another_size_is_refused_when_it_is_read(tmp_path):
    ade20k(tmp_path)
    path = tmp_path / "annotations" / "training" / "ADE_train_00000001.png"
    save(path, np.zeros((8, 6), np.uint8))
    with pytest.raises(UserError, match=r"ADE_train_00000001\.jpg is 6x8 .* is 8x6"):
        open_public("ade20k", tmp_path, "train")[0]


@pytest.mark.parametrize("names_", [("sync", "official_splits/test"), ("train", "test")])
def test_nyuv2_copy(tmp_path, names_):
    nyuv2(tmp_path / "nyu_depth_v2", *names_)
    train, test = (open_public("nyuv2", tmp_path, part) for part in ("train", "test"))
    assert (len(train), len(test)) == (60, 4)
    for example in test:
        number = int(example.name[-9:-4])
        torch.testing.assert_close(example.depth, torch.full((6, 8), 1 + number / 1000))


def test_nyuv2_copy_as_pairs(tmp_path):
    for part in ("train", "test"):
        save(tmp_path / part / "images" / "a.jpg", picture(1))
        (tmp_path / part / "depth").mkdir()
        np.save(tmp_path / part / "depth" / "a.npy", np.full((6, 8), 2.5, np.float32))
    example = open_public("nyuv2", tmp_path, "test")[0]
    assert example.depth.unique().tolist() == [2.5]


def test_an_incomplete_nyuv2_copy(tmp_path):
    nyuv2(tmp_path)
    (tmp_path / "sync" / "room_0" / "sync_depth_00004.png").unlink()
    with pytest.raises(UserError, match=r"1 of 60 pictures .* rgb_00004"):
        open_public("nyuv2", tmp_path, "train")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match="holds train/ and sync/ of"):
        open_public("nyuv2", tmp_path, "train")
    with pytest.raises(UserError, match="holds none of train/"):
        open_public("nyuv2", tmp_path / "sync", "train")


def test_imagenet_copy(tmp_path):
    imagenet(tmp_path)
    for part, count in (("train", 36), ("test", 6)):
        source = open_public("imagenet", tmp_path, part)
        assert len(source) == count
        found = {(example.label, example.name.split("/")[-2]) for example in source}
        assert found == {(0, "n01"), (1, "n02"), (2, "n10")}
    # a class's index does not depend on which pictures are taken
    one = open_public("imagenet", tmp_path, "test", limit=1)
    assert one.categories == source.categories
    assert len(public_pictures("imagenet", tmp_path, limit=5)) == 5


def test_imagenet_with_a_flat_validation_folder(tmp_path):
    imagenet(tmp_path)
    for name in ("n01", "n02", "n10"):
        (tmp_path / "val" / name).rename(tmp_path / "val" / f"x{name}")
    with pytest.raises(UserError, match=r"of different classes, as n01; put val/'s pictures"):
        open_public("imagenet", tmp_path, "test")
    with pytest.raises(UserError, match="there is no train/"):
        open_public("imagenet", tmp_path / "train", "train")


# --- a run's data


@pytest.mark.parametrize("split", ["validation", "test"])
def test_roles_share_no_picture_and_have_their_numbers(tmp_path, split):
    ade20k(tmp_path)
    data = public_data("ade20k", tmp_path, image_size=8, split=split, counts=FEW)
    roles = {role: names(getattr(data, role)) for role in ROLES}
    assert all(not set(roles[a]) & set(roles[b]) for a, b in combinations(ROLES, 2))
    measured = 3 if split == "validation" else 4
    assert [len(roles[role]) for role in ROLES] == [6, 4, 2, 5, measured]
    assert all(("validation" in n) == (split == "test") for n in roles["test"])
    assert data.tasks == ("segmentation",) and data.classes == {"segmentation": 150}
    assert not {str(path) for path in data.stream.files} & set(roles["test"])
    assert len(data.stream) > 15  # more than the labelled pictures of heads, feedback and fit
    assert labelled_batch(data.feedback, [0, 1], data.image_size).segmentation.max() < 150


def test_the_papers_numbers_are_asked_for(tmp_path):
    ade20k(tmp_path)
    with pytest.raises(UserError, match="30 training pictures are too few for 2000 to fit heads"):
        public_data("ade20k", tmp_path, image_size=8)
    nyuv2(tmp_path / "n")
    with pytest.raises(UserError, match=r"60 training pictures are too few for 512 .* 128 for"):
        public_data("nyuv2", tmp_path / "n", image_size=8)
    with pytest.raises(UserError, match="banana: no split"):
        public_data("ade20k", tmp_path, image_size=8, counts={"banana": 3})


def test_the_same_pictures_for_all_seeds(tmp_path):
    ade20k(tmp_path)
    one, two = (public_data("ade20k", tmp_path, image_size=8, seed=s, counts=FEW) for s in (0, 1))
    for role in ROLES:
        assert sorted(names(getattr(one, role))) == sorted(names(getattr(two, role)))
    assert names(one.heads) != names(two.heads)


def test_frames_of_nyuv2_are_split_in_blocks(tmp_path):
    nyuv2(tmp_path)
    data = public_data("nyuv2", tmp_path, image_size=(6, 8), counts=FEW)
    at = {role: [int(n[-9:-4]) for n in names(getattr(data, role))] for role in ROLES}
    spans = sorted((min(frames), max(frames)) for frames in at.values())
    assert all(end + 5 < start for (_, end), (start, _) in pairwise(spans))
    # heads and feedback come first where there are not enough for all
    counts = {"heads": 20, "feedback": 12}
    data = public_data("nyuv2", tmp_path, image_size=(6, 8), counts=counts)
    assert (len(data.heads), len(data.feedback)) == (20, 12)
    assert all(len(getattr(data, role)) >= 1 for role in ROLES)


def test_imagenet_as_classification(tmp_path):
    imagenet(tmp_path)
    data = public_data("imagenet", tmp_path, image_size=8, split="test", counts=FEW)
    assert data.classes == {"classification": 3} and data.tasks == ("classification",)
    assert data.names == {"classification": ("n01", "n02", "n10")}


@pytest.mark.parametrize(
    "text, expected",
    [
        ("ade20k", ("ade20k", None)),
        ("nyuv2:/data/n", ("nyuv2", "/data/n")),
        ("imagenet:a:b", ("imagenet", "a:b")),
        ("/data/ade20k", None),
    ],
)
def test_names_with_and_without_a_folder(text, expected):
    found = parse_public(text)
    assert found == expected or (found[0], str(found[1])) == expected


def test_a_name_with_an_empty_folder():
    with pytest.raises(UserError, match="names no folder"):
        parse_public("ade20k:")


# --- the Hub


def encoded(array, kind="PNG"):
    held = BytesIO()
    Image.fromarray(array).save(held, kind)
    return {"bytes": held.getvalue(), "path": None}


class Rows:
    """What `datasets` gives for streaming, as far as it is used."""

    def __init__(self, rows, log):
        self.rows, self.log = rows, log

    def cast_column(self, column, feature):
        assert isinstance(feature, datasets.Image) and feature.decode is False
        self.log.append(column)
        return self

    def select_columns(self, columns):
        return Rows([{c: row[c] for c in columns} for row in self.rows], self.log)

    def shuffle(self, seed, buffer_size):
        self.log.append("shuffled")
        return self

    def take(self, count):
        return Rows(self.rows[:count], self.log)

    def __iter__(self):
        return iter(self.rows)


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the Hub: `made` rows, and what was asked of it."""
    asked = {"log": [], "rows": []}

    def load(kind, *, data_files, split, streaming):
        assert (kind, split, streaming) == ("parquet", "train", True)
        asked["files"] = data_files
        return Rows(asked["rows"], asked["log"])

    monkeypatch.setattr(hub_pictures, "_answers", lambda: True)
    monkeypatch.setattr(datasets, "load_dataset", load)
    return asked


def test_ade20k_from_the_hub(hub):
    hub["rows"] = [
        {
            "image": encoded(picture(k), "JPEG"),
            "annotation": encoded(np.full((6, 8), k, np.uint8)),
            "scene_category": 0,
        }
        for k in range(5)
    ]
    source = open_public("ade20k", None, "test", limit=3)
    assert hub["files"] == (
        "hf://datasets/zhoubolei/scene_parse_150@refs/convert/parquet/scene_parsing/"
        "*validation/*.parquet"
    )
    assert hub["log"] == ["image", "annotation"] and len(source) == 3
    assert [e.segmentation.unique().tolist() for e in source] == [[IGNORE], [0], [1]]
    assert source[2].image.shape == (3, 6, 8)


def test_nyuv2_from_the_hub(hub):
    metres = np.full((6, 8), 3.25, np.float32)
    hub["rows"] = [{"image": encoded(picture(1)), "depth_map": encoded(metres, "TIFF")}]
    (example,) = open_public("nyuv2", None, "train", limit=9)
    assert "nyu_depth_v2@refs/convert/parquet/default/*train/" in hub["files"]
    assert example.depth.unique().tolist() == [3.25]


def test_imagenet_from_the_hub(hub):
    hub["rows"] = [{"image": encoded(picture(k)), "label": 999 - k} for k in range(4)]
    source = open_public("imagenet", None, "train", limit=4)
    assert [example.label for example in source] == [999, 998, 997, 996]
    assert hub["log"] == ["image", "shuffled"]
    assert len(public_pictures("imagenet", None, limit=2)) == 2


def test_a_run_on_the_hub(hub):
    hub["rows"] = [
        {
            "image": encoded(picture(k)),
            "annotation": encoded(np.full((6, 8), k, np.uint8)),
        }
        for k in range(40)
    ]
    data = public_data("ade20k", None, image_size=8, counts=FEW)
    roles = {role: names(getattr(data, role)) for role in ROLES}
    assert all(not set(roles[a]) & set(roles[b]) for a, b in combinations(ROLES, 2))
    assert [len(roles[role]) for role in ROLES] == [6, 4, 2, 5, 3]


def test_the_library_itself_streams_what_is_asked_of_it(tmp_path, monkeypatch):
    features = {
        "image": datasets.Image(),
        "depth_map": datasets.Image(),
        "other": datasets.Value("int8"),
    }
    rows = [
        {
            "image": encoded(picture(k)),
            "depth_map": encoded(np.full((6, 8), k + 1, np.float32), "TIFF"),
            "other": 0,
        }
        for k in range(4)
    ]
    made = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    made.to_parquet(tmp_path / "partial-train.parquet")
    load = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda kind, data_files, **options: load(
            kind,
            data_files=str(tmp_path / data_files.rpartition("/")[2]),
            cache_dir=str(tmp_path),
            **options,
        ),
    )
    monkeypatch.setattr(hub_pictures, "_answers", lambda: True)
    source = open_public("nyuv2", None, "train", limit=3)
    assert [example.depth.unique().tolist() for example in source] == [[1.0], [2.0], [3.0]]
    assert torch.equal(source[1].image, torch.from_numpy(picture(1)).permute(2, 0, 1))


def test_what_the_hub_gives_wrongly_is_one_line(hub, monkeypatch):
    with pytest.raises(UserError, match="say how many pictures"):
        open_public("ade20k", None, "train")
    hub["rows"] = [{"image": {"bytes": None, "path": "x"}, "annotation": None}]
    with pytest.raises(UserError, match="has no picture in image"):
        open_public("ade20k", None, "train", limit=1)
    hub["rows"] = [{"image": encoded(picture(1))}]
    with pytest.raises(UserError, match=r"cannot be read from the Hub.*; download ADE") as caught:
        open_public("ade20k", None, "train", limit=1)
    assert "\n" not in str(caught.value)

    def refuse(*args, **kwargs):
        raise ValueError("gated\nlog in")

    monkeypatch.setattr(datasets, "load_dataset", refuse)
    with pytest.raises(UserError, match=r"imagenet-1k \(gated log in\); put class folders"):
        open_public("imagenet", None, "train", limit=1)


@pytest.mark.parametrize(
    "name, where",
    [
        ("ade20k", "download ADEChallengeData2016.zip"),
        ("nyuv2", "put its frames into DIR/train and DIR/test"),
        ("imagenet", "put class folders into DIR/train and DIR/val"),
    ],
)
def test_without_a_network_one_line_says_what_to_put_where(monkeypatch, name, where):
    monkeypatch.setattr(hub_pictures, "_answers", lambda: False)
    with pytest.raises(UserError, match=f"{name}: .* cannot be reached; {where}") as caught:
        open_public(name, None, "train", limit=4)
    assert "\n" not in str(caught.value) and f"say {name}:DIR" in str(caught.value)


def test_asked_to_stay_offline_the_hub_is_not_asked(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="cannot be reached"):
        open_public("ade20k", None, "train", limit=1)
