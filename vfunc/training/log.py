"""The log of an arm: its events, its progress, its checkpoints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from vfunc.evaluation.expected import in_words
from vfunc.printable import printable
from vfunc.processes import ALONE, Processes
from vfunc.report.events import EventLog
from vfunc.report.progress import Progress, Status
from vfunc.report.trackers import Trackers
from vfunc.storage.digests import so_far
from vfunc.training.checkpoint import (
    help_to_save,
    naming_file,
    random_state,
    save_checkpoint,
)
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


class Following(Silent):
    """The log of a process that is not the first: what is to be kept, the first one keeps."""

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def checkpoint(self, state: ArmState) -> None:
        """See `Log.checkpoint`; this process's random state goes into the first one's file."""
        self._processes.every(random_state(state))
        help_to_save(state)


class RunLog:
    """An arm's news: to the event log, the display, and the checkpoint file."""

    def __init__(
        self,
        events: EventLog,
        display: Progress,
        checkpoint: Path,
        unit: str,
        identity: Mapping[str, Any] | None = None,
        processes: Processes = ALONE,
        trackers: Trackers | None = None,
    ) -> None:
        self._trackers = trackers
        self._events, self._display, self._checkpoint = events, display, checkpoint
        self._identity, self._processes = dict(identity or {}), processes
        self._rate = f"{unit}_per_second"
        self._latest: dict[str, float] = {}

    def event(self, kind: str, fields: Mapping[str, Any]) -> None:
        """See `Log.event`."""
        with naming_file(self._events.path):
            self._events.write({"kind": kind, **fields})
        if self._trackers is not None:
            self._trackers.event({"kind": kind, **fields})
        if kind == "engine":
            products = fields.get("hessian_engine")
            hessian = products and f"Hessian products by {products}"
            why = "; ".join(filter(None, [fields["engine_why"], hessian, fields["split"]]))
            self._display.message(printable(f"engine    {fields['engine']} ({why})"))
        if kind == "foresight":
            for line in in_words(fields):
                self._display.message(printable(line))
        if kind == "evaluation":
            self._latest["heldout_loss"] = fields["heldout_loss"]

    def progress(self, fraction: float, fields: Mapping[str, Any]) -> None:
        """See `Log.progress`; the display keeps the last value that was estimated."""
        shown = ("value", "gate", "kept")
        self._latest |= {name: fields[name] for name in shown if name in fields}
        status = Status(
            step=fields["step"],
            loss=fields["train_loss"],
            **{self._rate: fields["units_a_second"]},
            **self._latest,
        )
        self._display.update(fraction, status)

    def checkpoint(self, state: ArmState) -> None:
        """See `Log.checkpoint`."""
        made_of = {"identity": self._identity, "log": so_far(self._events.path)}
        _, *others = self._processes.every(random_state(state))
        save_checkpoint(state, self._checkpoint, made_of, others)
