"""Reads pictures and labelled pictures from files on demand, and caches them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.decoding import File
from vfunc.vision.data.folder_layouts import Entry
from vfunc.vision.data.listing import PICTURES, list_files
from vfunc.vision.data.orientation import turned
from vfunc.vision.data.pictures import read_depth, read_image, read_labels
from vfunc.vision.data.vision_data import Example

CACHE_BYTES = 2**30
"""Default size of the cache of decoded pictures."""

Reader = Callable[[File], Tensor]


class Cache:
    """A cache of decoded files, filled up to its limit; none is dropped for another.

    An epoch reads every file once, in an order of its own: what is read next is never what was
    read last, so that dropping the oldest would empty the cache each epoch.
    """

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self.limit = limit
        self.used = 0
        self._kept: dict[tuple[str, File], Tensor] = {}
        self._lock = threading.Lock()

    def get(self, kind: str, file: File, read: Reader) -> Tensor:
        """The result of `read(file)`, not to be changed in place."""
        kept = self._kept.get((kind, file))
        if kept is not None:
            return kept
        made = read(file)
        size = made.numel() * made.element_size()
        with self._lock:  # two threads may have read it at once
            if (kind, file) not in self._kept and self.used + size <= self.limit:
                self.used += size
                self._kept[kind, file] = made
        return made


@dataclass(frozen=True, eq=False)
class PictureFiles:
    """Unlabeled pictures in files.

    Attributes:
        files: the pictures.
        cache: cache of decoded pictures.
        ignored: number of files of other kinds beside them.
        side: the most that their shorter side has, in pixels (`read_image`); None leaves it.
    """

    files: Sequence[File]
    cache: Cache = field(default_factory=Cache)
    ignored: int = 0
    side: int | None = None

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> UInt8[Tensor, "3 h w"]:
        kind = "image" if self.side is None else f"image of {self.side}"
        return self.cache.get(kind, self.files[index], partial(read_image, side=self.side))


@dataclass(frozen=True, eq=False)
class LabelledFiles:
    """Labelled pictures in files.

    Attributes:
        entries: the pictures and their labels, the same kinds for all.
        categories: names of the pictures' classes; a class is its position among them.
        labels: reader of label maps, one rule for all of a source.
        depth: reader of depth maps.
        cache: cache of decoded files; by default none, see `SizedPictures`.
    """

    entries: Sequence[Entry]
    categories: Sequence[str] = ()
    labels: Reader = read_labels
    depth: Reader = read_depth
    cache: Cache = field(default_factory=lambda: Cache(0))

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> Example:
        """Read one picture.

        Raises:
            UserError: a file cannot be read, or a label's size is not its picture's.
        """
        entry = self.entries[index]
        image = self.cache.get("image", entry.image, read_image)
        maps = {}
        for kind, file, read, turn in (
            ("segmentation", entry.segmentation, self._compact, entry.segmentation_turn),
            ("depth", entry.depth, self.depth, entry.depth_turn),
        ):
            if file is not None:
                maps[kind] = turned(self.cache.get(kind, file, read), turn)
                require_size(entry.image, image.shape[1:], file, maps[kind].shape)
        label = None if entry.category is None else self.categories.index(entry.category)
        return Example(image, **maps, label=label, name=str(entry.image))

    def _compact(self, file: File) -> Tensor:
        # the cache holds four times as many
        labels = self.labels(file)
        return labels.to(torch.int16) if int(labels.max()) < 2**15 else labels


@typed
def image_folder(folder: Path, *, cache_bytes: int = CACHE_BYTES) -> PictureFiles:
    """All pictures below a folder, in natural order.

    Raises:
        UserError: no such folder, or no picture in it.
    """
    files, ignored = list_files(folder, PICTURES)
    if not files:
        beside = f" ({ignored} files of other kinds are)" if ignored else ""
        raise UserError(f"{folder}: no pictures ({', '.join(PICTURES)}) are in it{beside}")
    return PictureFiles(files, Cache(cache_bytes), ignored)


def require_size(
    image: File, size: Sequence[int], labels: File, labels_size: Sequence[int]
) -> None:
    """Check that a picture and its labels are of one height and width.

    Raises:
        UserError: they are not; names both.
    """
    if tuple(size) != tuple(labels_size):
        (h, w), (lh, lw) = size, labels_size
        raise UserError(
            f"{image} is {h}x{w} pixels but {labels} is {lh}x{lw} (height x width); resize one"
        )
