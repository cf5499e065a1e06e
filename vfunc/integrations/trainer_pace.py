"""A trainer's micro-batches, drawn ahead where estimates ask for them, and its windows."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from vfunc.errors import UserError
from vfunc.integrations.trainer_batches import token_batch
from vfunc.language.data.examples import TokenBatch
from vfunc.simulate.schedule import Schedule
from vfunc.simulate.windows import Shares
from vfunc.training.arm_run import ArmRun


@dataclass
class Line:
    """The micro-batches of the present window, and those that have been drawn behind it.

    A trainer reads its epoch through it, so that what estimates look ahead to is what the learner
    steps on later. It ends with the epoch: the order of the next one is not drawn yet.

    Attributes:
        window: the present window's micro-batches, as the trainer has them.
        index: place of the present micro-batch in it.
        position: the window's first micro-batch, counted over the training.
        behind: micro-batches drawn ahead.
        source: the epoch.
    """

    window: list[Mapping[str, Any]] = field(default_factory=list)
    index: int = 0
    position: int = 0
    behind: deque[Mapping[str, Any]] = field(default_factory=deque)
    source: Iterator[Any] | None = None

    def feed(self, source: Iterator[Any], count: int) -> list[Mapping[str, Any]]:
        """Begin a window of so many micro-batches, fewer where the epoch ends.

        Args:
            source: the epoch.
            count: micro-batches.
        """
        if source is not self.source:
            self.source = source
            self.behind.clear()
        self.draw(count)
        self.window = [self.behind.popleft() for _ in range(min(count, len(self.behind)))]
        self.index = 0
        return list(self.window)

    def draw(self, count: int) -> int:
        """Have so many micro-batches behind the window, or what is left; returns how many."""
        while len(self.behind) < count and self.source is not None:
            try:
                self.behind.append(next(self.source))
            except StopIteration:
                break
        return min(count, len(self.behind))

    def stand(self, position: int, inputs: Mapping[str, Any]) -> None:
        """Say which micro-batch the trainer is at.

        Args:
            position: counted over the training.
            inputs: as the trainer trains on it.
        """
        if self.index >= len(self.window):  # a trainer that does not read by `get_batch_samples`
            self.window, self.index = [inputs], 0
        self.window[self.index] = inputs
        self.position = position - self.index

    def at(self, position: int) -> TokenBatch:
        """The micro-batch at that place of the training, of the window's first on.

        Raises:
            UserError: it is beyond the epoch.
        """
        k = position - self.position
        if 0 <= k < len(self.window):
            return token_batch(self.window[k])
        k -= len(self.window)
        if k < 0 or self.draw(k + 1) <= k:
            raise UserError(
                f"micro-batch {position} is beyond the epoch, whose successor is not drawn yet"
            )
        return token_batch(self.behind[k])

    @property
    def left(self) -> int:
        """Micro-batches of the present window from the present one on."""
        return max(len(self.window) - self.index, 1)

    def ahead(self, count: int) -> int:
        """How many of so many micro-batches there are, the present one first."""
        return min(count, self.left + self.draw(max(count - self.left, 0)))


@dataclass(frozen=True)
class TrainerPace:
    """How a trainer goes on (`vfunc.training.arm_run.Pace`).

    Attributes:
        line: its micro-batches.
        accumulate: micro-batches in a window that is not the epoch's last.
        gradient_of: see `Pace`: several processes' gradients are averaged, of losses that are as
            many times their part.
        scheduler: its scheduler of step sizes, perhaps of a wrapper of the optimizer.
        optimizer: the optimizer itself.
    """

    line: Line
    accumulate: int
    gradient_of: float
    scheduler: Any
    optimizer: torch.optim.Optimizer

    @property
    def schedule(self) -> Schedule | None:
        """See `Pace`."""
        own = copy.copy(self.scheduler)
        if getattr(own, "optimizer", None) is not None:
            own.optimizer = self.optimizer
        return own

    @property
    def begun(self) -> bool:
        """See `Pace`."""
        return self.line.index > 0

    def windows(self, ahead: int) -> tuple[Shares, ...]:
        """See `Pace`: an epoch's last window may be smaller, and behind it there is none."""
        line, every = self.line, self.accumulate
        found = [(1 / max(len(line.window), 1),) * line.left]
        there = line.draw((ahead - 1) * every)
        for _ in range(ahead - 1):
            own = min(every, there)
            if not own:
                break
            found.append((1 / own,) * own)
            there -= own
        return tuple(found)


def within_epoch(run: ArmRun, line: Line) -> tuple[ArmRun, dict[str, float]]:
    """The run with an estimator that looks no further ahead than the epoch goes.

    Args:
        run: before a micro-batch at which the designer is updated.
        line: the trainer's micro-batches.

    Returns:
        The run, and what to tell: what was asked for and is not there.
    """
    told: dict[str, float] = {}
    estimator: Any = run.estimator
    options = run.options
    assert run.pace is not None
    steps = len(run.pace.windows(options.look_ahead))
    if steps < options.look_ahead:
        told["lookahead_steps"] = float(steps)
        given: dict[str, Any] = {"lookahead_steps": steps}
        reach = steps
        if getattr(estimator, "truncate", None) is not None:
            given["truncate"] = reach = min(estimator.truncate, steps)
        if hasattr(estimator, "checkpoint_every"):
            given["checkpoint_every"] = min(estimator.checkpoint_every, reach)
        if reach == 1 and getattr(estimator, "states", None) == "disk":
            given["states"] = "memory"
        estimator = replace(estimator, **given)
        options = replace(options, look_ahead=steps)
    for name, holder in (("mean_batches", estimator), ("mean_bank", options)):
        asked = getattr(holder, name, None)
        if asked and (there := line.ahead(asked)) < asked:
            told[name] = float(there)
            if holder is options:
                options = replace(options, mean_bank=there)
            else:
                estimator = replace(estimator, mean_batches=there)
    return (replace(run, estimator=estimator, options=options) if told else run), told
