"""Defines labelled examples and their sources, and orders and batches them.

A source is random access: nothing advances, so that resuming and looking ahead need no state but
a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor
from torch.nn import functional as F

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.batches import LabelledBatch, LabelledSet
from vfunc.vision.data.decoding import File


@dataclass(frozen=True, eq=False)
class Example:
    """One labelled picture, as stored.

    Attributes:
        image: sRGB picture.
        segmentation: classes 0 to C - 1, `IGNORE` where there is none.
        depth: metres, 0 where it is not known.
        label: the class of the picture.
        name: a file's name, for messages.
    """

    image: UInt8[Tensor, "3 h w"]
    segmentation: Int[Tensor, "h w"] | None = None
    depth: Float[Tensor, "h w"] | None = None
    label: int | None = None
    name: str = ""


@runtime_checkable
class Labelled(Protocol):
    """Labelled pictures with random access, read on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Example: ...


@runtime_checkable
class Pictures(Protocol):
    """Unlabeled pictures with random access, read on demand."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]: ...


@dataclass(frozen=True, eq=False)
class VisionData:
    """All data of a vision run; no picture is in two of the labelled splits.

    Attributes:
        stream: unlabeled pictures, shuffled anew for each epoch.
        heads: pictures that the heads of the feedback are fitted on.
        feedback: pictures that g_down is taken on.
        held_out: pictures for the one-step probe alone.
        fit: pictures that the evaluation's probes of a frozen backbone are trained on.
        test: pictures that the evaluation measures on.
        tasks: tasks that have labels, of "segmentation", "depth" and "classification".
        classes: the number of classes of "segmentation" and "classification".
        image_size: height and width that labelled pictures are resized to.
        summary: counts by split, counts and reasons of dropped pictures, and their source.
        names: the names of the classes, by task.
        measured: files of all pictures for validation and test, those too that are not used.
        maps: files of label and depth maps, which are no pictures.
        held: the labelled pictures at that size, by role, once they were asked for
            (`vfunc.vision.loading.sized_pictures.sized_roles`).
    """

    stream: Pictures
    heads: Labelled
    feedback: Labelled
    held_out: Labelled
    fit: Labelled
    test: Labelled
    tasks: tuple[str, ...]
    classes: Mapping[str, int]
    image_size: tuple[int, int]
    summary: Mapping[str, Any]
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    measured: tuple[File, ...] = ()
    maps: frozenset[Path] = frozenset()
    held: dict[str, LabelledSet] = field(default_factory=dict, init=False, repr=False)


@typed
def labelled_batch(
    source: Labelled, indices: Sequence[int], size: tuple[int, int]
) -> LabelledBatch:
    """Read examples and bring them to one size, the aspect ratio not kept.

    Images are resized by bilinear interpolation with antialiasing, and stay pictures of 8 bits;
    classes and depth by taking the nearest pixel, so that no class or depth is made up and an
    unknown pixel stays unknown. A label map may be void throughout.

    Args:
        source: the examples.
        indices: b indices, at least one.
        size: height and width, in pixels.

    Returns:
        float32 images and depth, int64 classes.

    Raises:
        UserError: no index; an example without any label; labels that only some examples have.
    """
    if not indices:
        raise UserError("a batch of no pictures was asked for; ask for at least 1")
    return as_batch(stacked([at_size(source[index], size) for index in indices]))


@typed
def at_size(example: Example, size: tuple[int, int]) -> Example:
    """A labelled picture, and its maps, at another size; see `labelled_batch`."""
    seg, depth = example.segmentation, example.depth
    return replace(
        example,
        image=_resized(example.image, size),
        segmentation=None if seg is None else _nearest(seg, size),
        depth=None if depth is None else _nearest(depth, size),
    )


@typed
def stacked(examples: Sequence[Example]) -> dict[str, Tensor]:
    """Examples of one size behind each other: what `as_batch` makes a batch of.

    Raises:
        UserError: an example without any label; labels that only some have.
    """
    maps = {key: _all_or_none(examples, key) for key in ("segmentation", "depth", "label")}
    if not any(maps.values()):
        raise UserError(f"{_named(examples[0])} has no labels; give a label map, depth or a class")
    found = {"image": torch.stack([example.image for example in examples])}
    found |= {key: torch.stack(maps[key]) for key in ("segmentation", "depth") if maps[key]}
    return found | ({"label": torch.tensor(maps["label"])} if maps["label"] else {})


@typed
def as_batch(columns: Mapping[str, Tensor]) -> LabelledBatch:
    """The batch of `stacked` columns."""
    segmentation, depth = columns.get("segmentation"), columns.get("depth")
    return LabelledBatch(
        columns["image"].float() / 255,
        segmentation=None if segmentation is None else segmentation.long(),
        depth=None if depth is None else depth.float(),
        classes=columns.get("label"),
    )


@typed
def stream_pictures(source: Pictures, position: int, count: int, seed: int) -> list[Tensor]:
    """The pictures at `position`, ..., `position + count - 1` of an endless order.

    Epoch after epoch, each a permutation drawn from (seed, epoch); a batch may run across epochs.

    Args:
        source: the pictures, at least one.
        position: number of pictures before.
        count: number of pictures; the next batch stands at `position + count`.
        seed: seed of the order, not negative.

    Returns:
        uint8 pictures (3, h, w), of any sizes.

    Raises:
        UserError: an empty source, or a negative position or seed.
    """
    return [source[index] for index in stream_order(len(source), position, count, seed)]


@typed
def stream_order(length: int, position: int, count: int, seed: int) -> list[int]:
    """Which pictures of a source of so many those are; see `stream_pictures`.

    Raises:
        UserError: an empty source, or a negative position or seed.
    """
    if not length:
        raise UserError("the stream holds no pictures; give at least 1")
    if position < 0:
        raise UserError(f"position {position}: a stream starts at 0")
    if seed < 0:
        raise UserError(f"seed {seed}: a seed cannot be negative")
    places = (divmod(at, length) for at in range(position, position + count))
    return [int(_order(length, seed, epoch)[index]) for epoch, index in places]


@typed
def cyclic(source_length: int, index: int, size: int) -> list[int]:
    """Positions of batch `index` of a source that is read in order, cyclically.

    Args:
        source_length: number of examples.
        index: the batch's number, from 0.
        size: number of examples in a batch; no example is twice in one.

    Raises:
        UserError: a negative index, an empty batch, or more examples in a batch than there are.
    """
    if index < 0:
        raise UserError(f"batch {index}: the first batch is 0")
    if not 1 <= size <= source_length:
        raise UserError(
            f"a batch of {size} labelled pictures cannot be read from {source_length}; ask for 1 "
            f"to {source_length}, or give more pictures"
        )
    return [(index * size + k) % source_length for k in range(size)]


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    order = np.random.default_rng([seed, epoch]).permutation(count)
    order.flags.writeable = False
    return order


def _named(example: Example) -> str:
    return example.name or "a picture without a name"


def _all_or_none(examples: Sequence[Example], key: str) -> list[Any]:
    values = [getattr(example, key) for example in examples]
    missing = [value is None for value in values]
    if any(missing) and not all(missing):
        without, having = examples[missing.index(True)], examples[missing.index(False)]
        raise UserError(
            f"{_named(without)} has no {key} but {_named(having)} has one; label all pictures of "
            "a part, or leave these out"
        )
    return [] if any(missing) else values


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(image.shape[-2:]) == size:
        return image
    x = image[None].float()
    resized = F.interpolate(x, size, mode="bilinear", align_corners=False, antialias=True)
    return resized[0].round().clamp(0, 255).to(torch.uint8)


def _nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    # By pixel centres, as the images are; interpolate's "nearest" is half a pixel off, and refuses
    # integers.
    rows, columns = (
        (2 * torch.arange(new) + 1) * old // (2 * new)
        for new, old in zip(size, labels.shape, strict=True)
    )
    return labels[rows[:, None], columns]
