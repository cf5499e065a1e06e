"""Keeps labelled pictures as they are needed: decoded once, at the size of a labelled batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool
from torch import Tensor

from vfunc.storage.overflow import Overflow
from vfunc.vision.data.batches import LabelledBatch, LabelledSet, labels_of
from vfunc.vision.data.vision_data import Labelled, VisionData, as_batch, at_size, stacked

_AT_ONCE = 64
"""Pictures that are decoded at a time."""


@dataclass(frozen=True, eq=False)
class SizedPictures:
    """Labelled pictures of a source, at one size.

    A picture is decoded when it is first asked for, and kept as 8-bit colours, whole-number classes
    and float32 metres.

    Attributes:
        source: the pictures.
        size: height and width.
        overflow: the memory that they may take, with others.
    """

    source: Labelled
    size: tuple[int, int]
    overflow: Overflow
    _held: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)
    _there: Bool[Tensor, " n"] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_there", torch.zeros(len(self.source), dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.source)

    def rows(self, at: Sequence[int]) -> LabelledBatch:
        """See `LabelledSet.rows`.

        Raises:
            UserError: a file cannot be read, or pictures do not have the same kinds of labels.
        """
        index = self._read(at)
        return as_batch({name: column[index] for name, column in self._held.items()})

    def labels(self, task: str, at: Sequence[int]) -> Tensor:
        """See `LabelledSet.labels`."""
        index = self._read(at)
        batch = as_batch({name: x[index[:1]] for name, x in self._held.items()})
        labels_of(batch, task)  # says what is missing
        column = self._held["label" if task == "classification" else task][index]
        return column if column.is_floating_point() else column.long()

    def _read(self, at: Sequence[int]) -> Tensor:
        """The places as a tensor, with the pictures there in place."""
        index = torch.as_tensor(at, dtype=torch.long)
        missing = index[~self._there[index]].unique()
        for some in missing.split(_AT_ONCE) if len(missing) else ():
            examples = [at_size(self.source[i], self.size) for i in some.tolist()]
            found = stacked(examples)
            if self._held and found.keys() != self._held.keys():
                held = at_size(self.source[int(self._there.nonzero()[0])], self.size)
                stacked([held, *examples])  # names two that differ
            if not self._held:  # of all or of none: there may be no room for the last of them
                self._held.update({name: self._room(name, new) for name, new in found.items()})
            for name, new in found.items():
                self._held[name][some] = new.to(self._held[name].dtype)
            self._there[some] = True
        return index

    def _room(self, name: str, like: Tensor) -> Tensor:
        dtype = {"image": torch.uint8, "segmentation": torch.int32, "depth": torch.float32}
        shape = (len(self.source), *like.shape[1:])
        return self.overflow.room(shape, dtype.get(name, torch.int64), "labelled pictures")


@dataclass(frozen=True, eq=False)
class FirstOf:
    """The first pictures of a set, so many; all of them where there are fewer."""

    pictures: LabelledSet
    count: int

    def __len__(self) -> int:
        return min(self.count, len(self.pictures))

    def rows(self, at: Sequence[int]) -> LabelledBatch:
        """See `LabelledSet.rows`."""
        return self.pictures.rows(at)

    def labels(self, task: str, at: Sequence[int]) -> Tensor:
        """See `LabelledSet.labels`."""
        return self.pictures.labels(task, at)


ROLES = ("heads", "feedback", "held_out", "fit", "test")


def sized_roles(source: VisionData, overflow: Overflow) -> Mapping[str, LabelledSet]:
    """The labelled pictures of a source by role, at the size of its batches; the same each time."""
    if not source.held:
        size = source.image_size
        source.held.update({r: SizedPictures(getattr(source, r), size, overflow) for r in ROLES})
    return source.held
