"""Tells folders named after classes (ImageFolder's layout) from folders of another meaning."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from vfunc.typecheck import typed
from vfunc.vision.data.listing import PICTURES

NO_CLASSES = frozenset(
    (
        *("image", "images", "img", "imgs", "rgb", "color", "colour", "input", "jpegimages"),
        *("label", "labels", "mask", "masks", "annotation", "annotations", "gt", "groundtruth"),
        *("ground_truth", "target", "seg", "segmentation", "segmentations", "segmentationclass"),
        *("segmentationobject", "semantic", "instance", "depth", "depths", "disparity"),
        *("train", "training", "val", "valid", "validation", "test", "testing"),
    )
)
"""Folders of pictures by these names, in lower case, are parts of a layout rather than classes."""


@typed
def class_folders(folders: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The folders that hold pictures of a class each, and names of those without pictures.

    Args:
        folders: the folders of a root.

    Returns:
        No class folders where there are fewer than two, or one has a name of another meaning, or
        a folder of such a name in it, as data sets beside each other have.
    """
    holding: list[Path] = []
    empty: list[str] = []
    for folder in folders:
        if _holds_picture(folder):
            holding.append(folder)
        else:
            empty.append(folder.name)
    if len(holding) < 2 or any(is_no_class(f.name) or _is_data_set(f) for f in holding):
        return [], []
    return holding, empty


@typed
def is_no_class(name: str) -> bool:
    """Whether a folder's name says that it is a part of a layout."""
    return name.lower() in NO_CLASSES or name.endswith("annot")


def _is_data_set(folder: Path) -> bool:
    return any(is_no_class(inside.name) for inside in folder.iterdir() if inside.is_dir())


def _holds_picture(folder: Path) -> bool:
    for _, folders, names in os.walk(folder, followlinks=False):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        if any(n.lower().endswith(PICTURES) and not n.startswith(".") for n in names):
            return True
    return False
