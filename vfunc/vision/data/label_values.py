"""Infers the classes of a set of label maps from their values."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.decoding import File
from vfunc.vision.data.file_sources import require_size
from vfunc.vision.data.folder_layouts import Entry
from vfunc.vision.data.orientation import turned_size
from vfunc.vision.data.pictures import picture_size, read_labels

_LARGEST = 2**16 - 1  # of 16-bit pictures; what is counted takes as much memory as the largest


@dataclass(frozen=True)
class SegmentationRule:
    """A rule to read a set of label maps.

    Attributes:
        read: file -> class indices.
        classes: number of classes.
        summary: the values found, for the run's summary.
    """

    read: Callable[[File], Tensor]
    classes: int
    summary: dict[str, Any]


@typed
def segmentation_rule(
    entries: Sequence[Entry], training: Collection[File], void: int | None
) -> SegmentationRule:
    """Infer the rule from every label map of a set.

    Only the set tells a binary map from one of class 0 and void 255.

    Args:
        entries: pictures with label maps, for training or not.
        training: label maps that heads or probes are trained on.
        void: value of pixels without a class.

    Returns:
        One rule for all: binary if the maps hold 0 and 255 alone; else as many classes as the
        largest value, plus one.

    Raises:
        UserError: sizes of picture and map differ; nothing but void; one class alone; 255 where
            it can only be void; values that are no indices of classes.
    """
    found: dict[bool, set[int]] = {True: set(), False: set()}
    void_maps = 0
    for entry in entries:
        file = entry.segmentation
        assert file is not None
        labels = read_labels(file, void, binary=False)
        size = turned_size(labels.shape, entry.segmentation_turn)
        require_size(entry.image, picture_size(entry.image), file, size)
        if int(labels.max()) > _LARGEST:
            raise UserError(
                f"{file}: the label map holds {int(labels.max())}, which is no index of a class; "
                "renumber its classes from 0 on, or give --void-label if it stands for none"
            )
        # a count is ten times as fast as a sort
        here = set((labels.flatten() - IGNORE).bincount().nonzero().flatten().tolist()) - {0}
        void_maps += not here
        found[file in training] |= {value + IGNORE for value in here}
    values = sorted(found[True] | found[False])
    if not values:
        raise UserError(f"{_such(entries)}: every pixel of all label maps is void")
    binary = values == [0, 255]
    classes = 2 if binary else values[-1] + 1
    if len(values) == 1:
        raise UserError(f"{_such(entries)}: the label maps hold class {values[0]} alone")
    if not binary and values[-1] == 255 and 254 not in values:
        raise UserError(
            f"{_such(entries)}: the label maps hold 255 beside {_some(values[:-1])}; if it stands "
            "for no class, say --void-label 255"
        )
    if 4 * len(values) < classes and classes > 16:
        raise UserError(
            f"{_such(entries)}: the label maps hold {_some(values)}, which are no indices of "
            "classes from 0 on; renumber them"
        )
    summary: dict[str, Any] = {"classes": classes, "label maps all void": void_maps}
    if void is not None:
        summary["void label"] = void
    unseen = sorted(found[False] - found[True])
    if unseen:
        summary["classes without a training pixel"] = (
            [v // 255 for v in unseen] if binary else unseen
        )
    return SegmentationRule(partial(read_labels, void=void, binary=binary), classes, summary)


def _such(entries: Sequence[Entry]) -> str:
    return f"{entries[0].segmentation} and {len(entries) - 1} more"


def _some(values: Sequence[int]) -> str:
    shown = ", ".join(map(str, values[:6]))
    return f"{shown}, ..., {values[-1]}" if len(values) > 7 else ", ".join(map(str, values))
