"""Sends the figures of a run's events to TensorBoard, Weights & Biases or Trackio as well.

They are copies: the event log is written first and holds everything. A tracker that fails on the
way is left with a warning, and the run goes on.
"""

from __future__ import annotations

import functools
import importlib
import math
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vfunc.extras import needs
from vfunc.printable import one_line
from vfunc.typecheck import typed

KINDS = {"step": "training", "evaluation": "evaluation", "signal": "signal"}
"""Kinds of events that are sent, and what their figures' names begin with."""
_PLACES = ("kind", "arm", "step", "at_step", "time")


class Tracker(Protocol):
    """Takes figures at a step."""

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Take figures by their names."""
        ...

    def close(self) -> None:
        """Have everything written."""
        ...


class TensorBoard:
    """Writes tensorboard/<arm>/ in the run's folder; `tensorboard --logdir runs` shows it."""

    def __init__(self, folder: Path, arm: str, config: Mapping[str, Any], at: int) -> None:
        with needs("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter
        place = str(folder / "tensorboard" / arm)
        # a resumed arm takes the steps after its checkpoint again
        self._writer = SummaryWriter(place, purge_step=at + 1 if at else None)

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        for name, value in figures.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._writer.close()


class Wandb:
    """Makes a run of the project `vfunc` an arm, grouped by the run's name."""

    def __init__(self, folder: Path, arm: str, config: Mapping[str, Any], at: int) -> None:
        needs("wandb")
        wandb: Any = importlib.import_module("wandb")  # its own types are of many versions
        known = folder / "wandb" / f"{arm}.id"
        if not (at and known.is_file()):
            known.parent.mkdir(parents=True, exist_ok=True)
            known.write_text(uuid.uuid4().hex, encoding="utf-8")
        name = folder.resolve().name
        self._run = wandb.init(
            project="vfunc",
            group=name,
            name=f"{name}/{arm}",
            id=known.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`; steps that it has already are left out by wandb."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


class Trackio:
    """Makes a run of the project `vfunc` an arm, in Trackio's own folder; `trackio show`."""

    def __init__(self, folder: Path, arm: str, config: Mapping[str, Any], at: int) -> None:
        needs("trackio")
        trackio: Any = importlib.import_module("trackio")
        name = folder.resolve().name
        self._run = trackio.init(
            project="vfunc",
            group=name,
            name=f"{name}/{arm}",
            config=dict(config),
            resume="allow" if at else "never",
            embed=False,
        )

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """See `Tracker.log`."""
        self._run.log(dict(figures), step=step)

    def close(self) -> None:
        """See `Tracker.close`."""
        self._run.finish()


TRACKERS: Mapping[str, Callable[[Path, str, Mapping[str, Any], int], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": Wandb,
    "trackio": Trackio,
}


def require_package(name: str) -> None:
    """Make sure that a tracker's package is there.

    Raises:
        MissingExtraError: it is not.
    """
    functools.partial(needs, name)()


class Trackers:
    """All trackers of an arm, for use in a `with` statement; none of them ends a run."""

    @typed
    def __init__(
        self,
        names: Sequence[str],
        folder: Path,
        arm: str,
        config: Mapping[str, Any],
        at: int,
        warn: Callable[[str], object],
    ) -> None:
        """Open them.

        Args:
            names: keys of `TRACKERS`.
            folder: the run's.
            arm: the arm's name.
            config: the run's options, plain.
            at: steps that the arm has taken already.
            warn: takes a line on a tracker that has failed.
        """
        self._warn = warn
        self._open: dict[str, Tracker] = {}
        for name in names:
            made = self._tried(name, lambda n=name: TRACKERS[n](folder, arm, config, at))
            if made is not None:
                self._open[name] = made

    def event(self, event: Mapping[str, Any]) -> None:
        """Send the figures of an event of the log."""
        figures, step = figures_of(event)
        for name, tracker in list(self._open.items()) if figures else ():
            self._tried(name, lambda t=tracker: t.log(figures, step))

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, *ended: object) -> None:
        for name, tracker in list(self._open.items()):
            self._tried(name, tracker.close)
            self._open.pop(name, None)

    def _tried(self, name: str, do: Callable[[], Any]) -> Any:
        try:
            return do()
        except Exception as error:  # a package of others: nothing of it may end the run
            self._open.pop(name, None)
            said = one_line(f"{type(error).__name__}: {error}")
            self._warn(f"--log {name} is left out from here on ({said}); events.jsonl goes on")
            return None


@typed
def figures_of(event: Mapping[str, Any]) -> tuple[dict[str, float], int]:
    """The finite numbers of an event, named `training/value`, and its step."""
    first, step = KINDS.get(event["kind"]), event.get("step", event.get("at_step"))
    if first is None or not isinstance(step, int):
        return {}, 0
    numbers = {k: v for k, v in event.items() if k not in _PLACES and _is_number(v)}
    return {f"{first}/{name}": float(value) for name, value in numbers.items()}, step


def _is_number(value: Any) -> bool:
    known = isinstance(value, int | float) and not isinstance(value, bool)
    return known and math.isfinite(value)
