"""The log of an arm: its events, its progress, its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from vfunc.training.state import ArmState


@runtime_checkable
class Log(Protocol):
    """Takes what an arm has to tell."""

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """One line of the event log."""
        ...

    def progress(self, fraction: float, fields: Mapping[str, Any]) -> None:
        """What the progress display shows."""
        ...

    def checkpoint(self, state: ArmState) -> None:
        """Write the arm's state to disk."""
        ...


class Silent:
    """A log that keeps nothing."""

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """See `Log.event`."""

    def progress(self, fraction: float, fields: Mapping[str, Any]) -> None:
        """See `Log.progress`."""

    def checkpoint(self, state: ArmState) -> None:
        """See `Log.checkpoint`."""
