"""Holds the sequences of one source of a stream in segments, made when they are first asked for."""

from __future__ import annotations

import contextlib
import time
import zlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save

from vfunc.errors import UserError
from vfunc.language.data.disk.segment_files import (
    Segment,
    in_memory,
    read_segment,
    told_of,
    write_segment,
)
from vfunc.language.data.disk.segment_maker import SegmentMaker
from vfunc.language.data.tokenise import Encoded
from vfunc.storage.lock import locked

OPEN = 32
"""Segments of a source that are open at a time."""
PATIENCE = 600.0
"""Seconds without a new segment after which another process at work is waited for no more."""
_LOOK = 0.1  # seconds between two looks at what another process has made

Watch = Callable[[dict[str, Any]], None]
"""Is told of each segment as it is made or found."""


class StoredSequences:
    """Sequences of a source, in its order; as many are made as are asked for.

    What there is does not depend on who made it, or when: a file of one process serves another.

    Attributes:
        domain: the domain of its sequences.
    """

    def __init__(
        self,
        maker: SegmentMaker,
        folder: Path | None,
        *,
        domain: int = 0,
        sound: Callable[[int], None] | None = None,
    ) -> None:
        """Look at what there is; nothing is made.

        Args:
            maker: makes what is missing.
            folder: where segments are kept; None keeps them in memory.
            domain: see `StoredSequences`.
            sound: refuses the largest token of a segment, where the learner does not know it.
        """
        self.domain = domain
        self._maker, self._folder, self._sound = maker, folder, sound
        self._told: list[dict[str, Any]] = []
        self._ends: list[int] = []
        self._held: OrderedDict[int, Segment] = OrderedDict()
        self._look()

    @property
    def ended(self) -> bool:
        """Whether all of the source is here."""
        return bool(self._told) and bool(self._told[-1]["ended"])

    @property
    def told(self) -> dict[str, Any]:
        """What there is to say of the last segment that is here; of everything until there."""
        return self._told[-1]

    @property
    def first(self) -> dict[str, Any]:
        """What there is to say of the first segment."""
        self.grow_to(1)
        return self._told[0]

    @property
    def wrong(self) -> bool:
        """Whether a token of what is here is known to be mistaken."""
        return any(told["wrong"] for told in self._told)

    @property
    def checksums(self) -> list[int]:
        """What tells the segments that are here from others."""
        return [told["crc32"] for told in self._told]

    def grow_to(self, count: int | None, watch: Watch | None = None) -> int:
        """How many sequences there are of the first so many, after making them.

        Args:
            count: sequences; None are all.
            watch: is told of each segment that is made here.

        Raises:
            UserError: the source cannot be read, or a segment not be kept.
        """
        while not self.ended and (count is None or self._size < count):
            self._grow(watch)
        return self._size if count is None else min(count, self._size)

    @property
    def _size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __len__(self) -> int:
        return self.grow_to(None)

    def __getitem__(self, index: int, /) -> Encoded:
        if index < 0 or self.grow_to(index + 1) <= index:
            raise IndexError(index)
        number = bisect_right(self._ends, index)
        return self._segment(number).sequence(index - self._told[number]["first"], self.domain)

    def __iter__(self) -> Iterator[Encoded]:
        at = 0
        while self.grow_to(at + 1) > at:
            yield self[at]
            at += 1

    def _segment(self, number: int) -> Segment:
        if number in self._held:
            self._held.move_to_end(number)
            return self._held[number]
        assert self._folder is not None  # in memory all are held
        found = read_segment(self._folder, number, self._told[number])
        if found is None:  # damaged, or removed under a run
            found = self._made_anew(self._folder, number)
        self._held[number] = found
        while len(self._held) > OPEN:
            self._held.popitem(last=False)
        return found

    def _made_anew(self, folder: Path, number: int) -> Segment:
        """A segment as it was, and those before it from the last that still says how to go on."""
        at, before = number, None
        while at and (before := told_of(folder, at - 1)) is None:
            at -= 1
        while True:
            columns, told = self._maker.made(at, before)
            if zlib.crc32(save(columns)) != self._told[at]["crc32"]:
                raise UserError(
                    f"the tokenised text in {folder} is damaged or gone, and made anew it is "
                    "another: a --stream has changed since it was tokenised; start the run anew"
                )
            write_segment(folder, at, columns, told)
            if at == number:
                return in_memory(columns)
            at, before = at + 1, told

    def _look(self) -> None:
        """Take in what other processes have made."""
        while self._folder is not None and not self.ended:
            told = told_of(self._folder, len(self._told))
            if told is None:
                return
            self._take(told)

    def _take(self, told: dict[str, Any]) -> None:
        if self._sound is not None:
            self._sound(told["largest"])
        if len(self._told) > 1:  # where to go on is asked of the last alone
            for name in ("examples", "encoder"):
                self._told[-1].pop(name)
        self._told.append(told)
        self._ends.append(told["first"] + told["sequences"])

    def _grow(self, watch: Watch | None) -> None:
        """One segment more."""
        number = len(self._told)
        before = self._told[-1] if self._told else None
        if self._folder is None:
            columns, told = self._maker.made(number, before)
            self._held[number] = in_memory(columns)
            self._take(told | {"crc32": zlib.crc32(save(columns))})
        else:
            with _alone(self._folder, number):
                self._look()
                if len(self._told) == number:
                    columns, told = self._maker.made(number, before)
                    write_segment(self._folder, number, columns, told)
                    self._look()
        if len(self._told) == number:
            raise UserError(
                f"the tokenised text in {self._folder} is gone as soon as it is written; give "
                "--data-cache another folder, or no"
            )
        if watch is not None:
            watch(self._told[-1])


@contextlib.contextmanager
def _alone(folder: Path, number: int) -> Iterator[None]:
    """While no other process makes a segment of the folder; or without waiting for ever."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"the tokenised text cannot be kept in {folder}: {error.strerror or error}; give "
            "--data-cache a folder with room, or no"
        ) from error
    last, seen = time.monotonic(), number
    with contextlib.ExitStack() as stack:
        while True:
            try:
                stack.enter_context(locked(folder))
                break
            except UserError:  # somebody is at it
                if told_of(folder, seen) is not None:
                    last, seen = time.monotonic(), seen + 1
                if seen > number or time.monotonic() - last > PATIENCE:
                    break  # it is there, or the other one sleeps: the same is made twice
                time.sleep(_LOOK)
            except OSError:  # no lock can be written: whoever makes it makes the same
                break
        yield
