"""Public data sets with their published label maps: ADE20K, NYUv2, ImageNet.

Each from a local copy, or streamed from the Hugging Face Hub. The paper takes 2000 pictures of
ADE20K to fit heads on and 512 for feedback, and 512 and 128 of NYUv2 (section on vision).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from vfunc.vision.data.file_sources import CACHE_BYTES, Cache, LabelledFiles, PictureFiles
from vfunc.vision.data.hub_pictures import HubSet, hub_entries
from vfunc.vision.data.layouts import Entry
from vfunc.vision.data.pictures import read_depth, read_labels
from vfunc.vision.data.public_copies import (
    ade20k_copy,
    imagenet_categories,
    imagenet_copy,
    nyuv2_copy,
)
from vfunc.vision.data.splits import thinned

Name = Literal["ade20k", "nyuv2", "imagenet"]
Part = Literal["train", "test"]
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


@dataclass(frozen=True)
class PublicSet:
    """One of the data sets.

    Attributes:
        task: what its labels are for.
        classes: how many there are; None for depth.
        heads: labelled pictures that heads are fitted on, in the paper.
        feedback: and those that g_down is taken on.
        video: whether neighbours show almost the same.
        copy: the entries of a part of a local copy.
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


@typed
def parse_public(text: str) -> tuple[str, Path | None] | None:
    """Read `ade20k`, `nyuv2` or `imagenet`, with `:ROOT` for a local copy; None for other text."""
    name, colon, root = text.partition(":")
    if name not in SETS:
        return None
    if colon and not root:
        raise UserError(f"{text}: names no folder; say {name}:DIR, or {name} to stream it")
    return name, Path(root).expanduser() if colon else None


@typed
def open_public(
    name: Name,
    root: Path | None,
    part: Part,
    *,
    limit: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> LabelledFiles:
    """The labelled pictures of one part of a public data set, as it publishes them.

    The test part is the one with published labels: ADE20K's and ImageNet's validation, NYUv2's
    654 test frames.

    Args:
        name: the data set.
        root: of a local copy; None streams it from the Hub.
        part: train or test.
        limit: at most so many; needed with the Hub, where they are kept in memory. Of a local
            copy they are evenly spaced, of the Hub's the first.
        cache_bytes: decoded pictures that are kept in memory.

    Raises:
        UserError: no such copy, no network, or no limit with the Hub.
    """
    spec = SETS[name]
    if root is not None:
        entries = spec.copy(root, part)
        entries = thinned(entries, limit)
    elif limit is None:
        raise UserError(f"{name}: say how many pictures to stream from the Hub")
    else:
        entries = hub_entries(name, spec.hub, part, limit, spec.instead)
    names: Sequence[str] = ()
    if spec.task == "classification":
        names = HUB_CATEGORIES if root is None else imagenet_categories(root)
    return LabelledFiles(entries, names, cache=Cache(cache_bytes), **spec.reading)


@typed
def public_pictures(
    name: Name, root: Path | None, *, limit: int | None = None, cache_bytes: int = CACHE_BYTES
) -> PictureFiles:
    """The training pictures without their labels; see `open_public`."""
    entries = open_public(name, root, "train", limit=limit).entries
    return PictureFiles([entry.image for entry in entries], Cache(cache_bytes))
