"""What the public data sets are: ADE20K, NYUv2, ImageNet, their labels, and their local copies.

The paper takes 2000 pictures of ADE20K to fit heads on and 512 for feedback, and 512 and 128 of
NYUv2 (section on vision).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.decoding import File
from vfunc.vision.data.folder_layouts import Entry, find_pairs
from vfunc.vision.data.hub_pictures import HubSet
from vfunc.vision.data.listing import MAPS, PICTURES, by_stem, keyed, list_files
from vfunc.vision.data.pictures import read_depth, read_labels

Name = Literal["ade20k", "nyuv2", "imagenet"]
Published = Literal["train", "test"]
"""The splits that a set is published in."""
ADE20K_CLASSES = 150
NYUV2_DEPTH = (1e-3, 10.0)
"""Metres between which depth counts."""
IMAGENET_CLASSES = 1000
HUB_CATEGORIES = tuple(f"{index:04d}" for index in range(IMAGENET_CLASSES))
"""What `vfunc.vision.data.hub_pictures` names the Hub's class indices."""


@typed
def ade20k_labels(file: File) -> Int[Tensor, "h w"]:
    """A label map of ADE20K's scene parsing: 1 to 150 become classes 0 to 149, 0 is ignored.

    Source: the MIT Scene Parsing Benchmark, whose class 0 is "other"; paper, section on vision.

    Raises:
        UserError: unreadable, or a value above 150: not the benchmark's `annotations/`.
    """
    labels = read_labels(file, void=0, binary=False)
    if int(labels.max()) > ADE20K_CLASSES:
        raise UserError(
            f"{file}: value {int(labels.max())} is none of ADE20K's labels 0 to "
            f"{ADE20K_CLASSES}; take annotations/ of ADEChallengeData2016"
        )
    return torch.where(labels == IGNORE, IGNORE, labels - 1)


@typed
def nyuv2_depth(file: File) -> Float[Tensor, "h w"]:
    """A depth map of NYUv2 in metres: 16-bit millimetres, or floats; beyond 1e-3 to 10 m unknown.

    Source: paper, section on vision.
    """
    depth = read_depth(file, 0.001)
    low, high = NYUV2_DEPTH
    return torch.where((depth >= low) & (depth <= high), depth, 0.0)


@typed
def ade20k_copy(root: Path, split: str) -> list[Entry]:
    """Entries of `ADEChallengeData2016/`: images/ and annotations/, each training/ or validation/.

    Args:
        root: that folder, or the one that it is in.
        split: train or test; the labels of the benchmark's own test split are not published.

    Raises:
        UserError: folders or annotations are missing.
    """
    inner = root / "ADEChallengeData2016"
    root = inner if inner.is_dir() else root
    folder = {"train": "training", "test": "validation"}[split]
    images, labels = root / "images" / folder, root / "annotations" / folder
    for path in (images, labels):
        if not path.is_dir():
            raise UserError(
                f"ade20k:{root}: there is no {path.relative_to(root)}/; give the folder of "
                "ADEChallengeData2016"
            )
    pictures, _ = by_stem(images, PICTURES)
    maps, _ = by_stem(labels, MAPS)
    _require_all(labels, pictures, maps)
    return [Entry(path, segmentation=maps[key]) for key, path in pictures.items()]


@typed
def nyuv2_copy(root: Path, split: str) -> list[Entry]:
    """Entries of NYUv2: `SCENE/rgb_N.jpg` with `SCENE/sync_depth_N.png`, or any layout of pairs.

    Args:
        root: holds train/ (or sync/) and test/ (or official_splits/test/), the names that
            github.com/cleinc/bts made common, or is the folder above.
        split: train or test.

    Raises:
        UserError: folders or depth maps are missing.
    """
    inner = root / "nyu_depth_v2"
    root = inner if inner.is_dir() else root
    names = {
        "train": ("train", "sync", "official_splits/train"),
        "test": ("test", "val", "official_splits/test"),
    }[split]
    found = [root / name for name in names if (root / name).is_dir()]
    if len(found) != 1:
        has = " and ".join(f"{path.relative_to(root)}/" for path in found) or "none"
        raise UserError(
            f"nyuv2:{root}: holds {has} of {', '.join(n + '/' for n in names)}; keep one"
        )
    (folder,) = found
    files, _ = list_files(folder, MAPS)
    colour = [path for path in files if path.name.startswith("rgb_")]
    if not colour:
        return [entry for pairs in find_pairs(folder) for entry in pairs.entries if entry.depth]
    depth = [path for path in files if path.name.startswith("sync_depth_")]
    maps = keyed(folder, depth, None)
    pictures = {
        str(Path(key).with_name("sync_depth_" + Path(key).name.removeprefix("rgb_"))): path
        for key, path in keyed(folder, colour, None).items()
    }
    _require_all(folder, pictures, maps)
    return [Entry(path, depth=maps[key]) for key, path in pictures.items()]


@typed
def imagenet_copy(root: Path, split: str) -> list[Entry]:
    """Entries of `train/CLASS/` and `val/CLASS/`, as torchvision's ImageFolder has them.

    A class is its folder's position among train/'s, in the order of their names.

    Raises:
        UserError: folders are missing, or val/ has a class that train/ has not.
    """
    imagenet_categories(root)
    folder = root / {"train": "train", "test": "val"}[split]
    files, _ = list_files(folder, PICTURES)
    if not files:
        raise UserError(f"{folder}: no pictures are in it")
    return [Entry(path, category=path.relative_to(folder).parts[0]) for path in files]


def imagenet_categories(root: Path) -> list[str]:
    """The names of the class folders, sorted, which is the published order of the classes.

    Raises:
        UserError: folders are missing, or those of train/ and val/ differ.
    """
    found = {}
    for folder in ("train", "val"):
        if not (root / folder).is_dir():
            raise UserError(f"imagenet:{root}: there is no {folder}/ of class folders in it")
        found[folder] = {path.name for path in (root / folder).iterdir() if path.is_dir()}
    strange = sorted(found["val"] ^ found["train"])
    if strange:
        raise UserError(
            f"imagenet:{root}: train/ and val/ are of different classes, as {strange[0]}; put "
            "val/'s pictures into the folders of their classes"
        )
    return sorted(found["train"])


def _require_all(labels: Path, pictures: dict[str, Path], maps: dict[str, Path]) -> None:
    missing = [path for key, path in pictures.items() if key not in maps]
    if missing or not pictures:
        raise UserError(
            f"{labels}: {len(missing)} of {len(pictures)} pictures have nothing in it, as "
            f"{missing[0].name if missing else 'all'}; complete the copy"
        )


@dataclass(frozen=True)
class PublicSet:
    """One of the data sets.

    Attributes:
        task: what its labels are for.
        classes: how many there are; None for depth.
        heads: labelled pictures that heads are fitted on, in the paper.
        feedback: and those that g_down is taken on.
        video: whether neighbours show almost the same.
        copy: the entries of a split of a local copy.
        hub: where the Hub has it.
        instead: what to download to where, for messages.
        reading: how a label is read.
    """

    task: str
    classes: int | None
    heads: int
    feedback: int
    video: bool
    copy: Callable[[Path, str], list[Entry]]
    hub: HubSet
    instead: str
    reading: Mapping[str, Any]


SETS: Mapping[str, PublicSet] = {
    "ade20k": PublicSet(
        "segmentation",
        ADE20K_CLASSES,
        2000,
        512,
        False,
        ade20k_copy,
        HubSet(
            "zhoubolei/scene_parse_150",
            "scene_parsing",
            {"train": "*train", "test": "*validation"},
            {"image": "image", "segmentation": "annotation"},
        ),
        "download ADEChallengeData2016.zip of the MIT Scene Parsing Benchmark "
        "(data.csail.mit.edu/places/ADEchallenge), unpack it in DIR and say ade20k:DIR",
        {"labels": ade20k_labels},
    ),
    "nyuv2": PublicSet(
        "depth",
        None,
        512,
        128,
        True,
        nyuv2_copy,
        HubSet(
            "sayakpaul/nyu_depth_v2",
            "default",
            {"train": "*train", "test": "*validation"},
            {"image": "image", "depth": "depth_map"},
        ),
        "put its frames into DIR/train and DIR/test, as images/ with depth/ or as SCENE/rgb_N.jpg "
        "with SCENE/sync_depth_N.png (16-bit, millimetres), and say nyuv2:DIR",
        {"depth": nyuv2_depth},
    ),
    "imagenet": PublicSet(
        "classification",
        IMAGENET_CLASSES,
        2000,
        512,
        False,
        imagenet_copy,
        HubSet(
            "ILSVRC/imagenet-1k",
            "default",
            {"train": "*train", "test": "*validation"},
            {"image": "image", "category": "label"},
            mixed=True,
        ),
        "put class folders into DIR/train and DIR/val, as torchvision has them, and say "
        "imagenet:DIR",
        {},
    ),
}
