"""Where the loop's news go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from vfunc.training.state import ArmState


@runtime_checkable
class Log(Protocol):
    """Where an arm's news go."""

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """One line of the event log."""
        ...

    def progress(self, fraction: float, fields: Mapping[str, Any]) -> None:
        """What the progress display shows."""
        ...

    def checkpoint(self, state: ArmState) -> None:
        """Write the arm's state to disk."""
        ...
