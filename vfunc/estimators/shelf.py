"""Where a lookahead keeps its states until the adjoint asks for them: in memory, or on disk."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar, runtime_checkable

import torch

from vfunc.errors import UserError

States = Literal["memory", "disk"]

Kept = TypeVar("Kept")


@runtime_checkable
class Shelf(Protocol):
    """Puts something away; what it returns brings the same back, bit for bit."""

    @property
    def roomy(self) -> bool:
        """Whether there is room for what can be made again."""
        ...

    def __call__(self, kept: Kept) -> Callable[[], Kept]:
        """Put it away."""
        ...


@dataclass(frozen=True)
class InMemory:
    """A shelf that holds on to what it is given."""

    @property
    def roomy(self) -> bool:
        """See `Shelf.roomy`."""
        return False

    def __call__(self, kept: Kept) -> Callable[[], Kept]:
        """See `Shelf.__call__`."""
        return lambda: kept


IN_MEMORY = InMemory()


@dataclass(frozen=True)
class OnDisk:
    """A shelf that writes a file for each thing; tensors come back to the device they were on.

    Attributes:
        folder: the files' folder.
    """

    folder: Path

    @property
    def roomy(self) -> bool:
        """See `Shelf.roomy`."""
        return True

    def __call__(self, kept: Kept) -> Callable[[], Kept]:
        """See `Shelf.__call__`.

        Raises:
            UserError: there is no room.
        """
        path = self.folder / str(sum(1 for _ in self.folder.iterdir()))
        try:
            torch.save(kept, path)
        except (OSError, RuntimeError) as error:  # torch's writer has errors of its own
            raise UserError(
                f"--states disk: {self.folder} cannot be written to ({error}); set TMPDIR to a "
                "folder with room, or take --states memory"
            ) from error
        # of this call's own making, so that more than weights may be in it
        return lambda: torch.load(path, weights_only=False)


@contextlib.contextmanager
def shelf_of(states: States) -> Iterator[Shelf]:
    """A shelf for one estimate; what is on disk is gone at its end, however it ends.

    The folder is made where `tempfile` makes them (`TMPDIR`).
    """
    if states == "memory":
        yield IN_MEMORY
        return
    with tempfile.TemporaryDirectory(prefix="vfunc-states-") as folder:
        yield OnDisk(Path(folder))
