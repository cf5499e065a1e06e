"""Budgets of an arm, schedules over the fraction of a budget spent, and the plan of both."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from vfunc.errors import UserError
from vfunc.typecheck import typed

Unit = Literal["steps", "tokens", "images", "seconds"]

_FORM = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(e[+-]?\d+)?\s*([kmb]?)\s*([a-z]+)", re.IGNORECASE)
_SCALES = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}
_COUNTS: dict[str, Unit] = {
    "step": "steps",
    "steps": "steps",
    "token": "tokens",
    "tokens": "tokens",
    "image": "images",
    "images": "images",
}
_SECONDS = {"s": 1, "sec": 1, "second": 1, "seconds": 1, "min": 60, "minute": 60, "minutes": 60}
_SECONDS |= {"h": 3600, "hour": 3600, "hours": 3600}
_EXAMPLES = "such as 500steps, 2Mtokens, 50kimages, 60s, 10min or 1h"


@dataclass(frozen=True)
class Budget:
    """What each arm may spend.

    Attributes:
        amount: whole but for seconds.
        unit: optimizer steps, tokens or images that the learner reads, or seconds of wall-clock.
    """

    amount: int | float
    unit: Unit

    def __post_init__(self) -> None:
        if not 0 < self.amount < float("inf"):
            raise UserError(f"a budget must be above 0 and finite, not {self.amount}")
        if self.unit != "seconds" and not isinstance(self.amount, int):
            raise UserError(f"a budget counts whole {self.unit}, not {self.amount}")

    def __str__(self) -> str:
        """As `parse_budget` reads it: the round trip is exact."""
        return f"{self.amount}{'s' if self.unit == 'seconds' else self.unit}"


@typed
def parse_budget(text: str) -> Budget:
    """Read a budget: a number, k, M or B if wanted, and a unit.

    Args:
        text: `500steps`, `2Mtokens`, `2.5e6tokens`, `60s`, `10min`, `1h`; case and spaces do not
            matter. k, M and B are a thousand, a million and a billion steps, tokens or images.

    Raises:
        UserError: no such form, a fraction of a step, token or image, or nothing at all.
    """
    match = _FORM.fullmatch(text.strip())
    if match is None:
        raise UserError(f"--budget {text!r} is not a budget: give a number and a unit, {_EXAMPLES}")
    number, exponent, scale, word = match.groups()
    scale, word = scale.lower(), word.lower()
    if scale + word in _SECONDS:  # the m of 10min is not a million
        scale, word = "", scale + word
    if word not in _COUNTS and (scale or word not in _SECONDS):
        raise UserError(
            f"--budget {text!r} has no known unit: give a number and a unit, {_EXAMPLES}"
        )
    # decimal, or 2.3Mtokens would be off by a rounding error
    amount = Decimal(number + (exponent or "")) * _SCALES[scale]
    if not 0 < amount < Decimal("1e15"):
        raise UserError(f"--budget {text!r}: give more than nothing, and less than 1e15")
    if word in _SECONDS:
        seconds = amount * _SECONDS[word]
        return Budget(int(seconds) if seconds == int(seconds) else float(seconds), "seconds")
    if amount != int(amount):
        raise UserError(f"--budget {text!r} is not a whole number of {_COUNTS[word]}")
    return Budget(int(amount), _COUNTS[word])


@typed
def spent_fraction(budget: Budget, steps: int, units: int, seconds: float | int) -> float:
    """The fraction of a budget that is spent, from 0 to 1.

    On step budgets it is steps / amount, one correctly rounded division: the same on every
    machine, and 1 exactly when, and only when, the last step is done.

    Args:
        budget: the budget.
        steps: optimizer steps taken.
        units: tokens or images read by the learner, whichever its modality counts.
        seconds: wall-clock spent on training; evaluation and saving do not count.
    """
    spent = {"steps": steps, "seconds": seconds}.get(budget.unit, units)
    return min(1.0, spent / budget.amount)


ScheduleShape = Literal["linear", "cosine", "wsd"]


@dataclass(frozen=True)
class Schedule:
    """The learning rate as a multiple of its peak, over the fraction of the budget spent.

    It rises linearly from `start` to 1 over the warm-up, then falls to `final`: `linear` and
    `cosine` (Loshchilov and Hutter 2017, arXiv 1608.03983) all the way, `wsd` (warm-up, stable,
    decay; Hu et al. 2024, arXiv 2404.06395) linearly over the last part alone.

    Attributes:
        warmup: fraction of the budget over which it rises; 0 starts at the peak.
        final: value at the end, as a fraction of the peak.
        start: value at the start of the warm-up. Above 0, since a step of size 0 wastes a batch
            and leaves values in units of eta without meaning.
        shape: how it falls.
        decay: fraction of the budget over which `wsd` falls, at its end.
    """

    warmup: float = 0.0
    final: float = 1.0
    start: float = 0.1
    shape: ScheduleShape = "linear"
    decay: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.warmup < 1:
            raise UserError(f"--warmup must be in [0, 1), a fraction of the budget: {self.warmup}")
        if not 0 <= self.final <= 1:
            raise UserError(f"--final-lr must be in [0, 1], a fraction of the peak: {self.final}")
        if not 0 < self.start <= 1:
            raise UserError(f"a warm-up starts in (0, 1], as a fraction of the peak: {self.start}")
        if self.shape == "wsd" and not 0 < self.decay <= 1 - self.warmup:
            raise UserError(
                f"--decay {self.decay:g} must be above 0, and at most {1 - self.warmup:g} with "
                f"--warmup {self.warmup:g}: both are fractions of the budget"
            )

    def factor(self, fraction: float) -> float:
        """The multiple of the peak at that fraction of the budget; above 0 before the end."""
        if fraction < self.warmup:
            return self.start + (1 - self.start) * (fraction / self.warmup)
        falls = self.decay if self.shape == "wsd" else 1 - self.warmup
        left = min((1 - min(fraction, 1.0)) / falls, 1.0)
        if self.shape == "cosine":
            left = (1 - math.cos(math.pi * left)) / 2
        return self.final + (1 - self.final) * left


@dataclass(frozen=True)
class ArmPlan:
    """What an arm's training is bounded and followed by.

    Attributes:
        budget: the budget of its training.
        lr: peak step size.
        schedule: step size as a function of the budget's spent fraction.
        eval_every: fraction of the budget between held-out evaluations.
        save_every: fraction of the budget between checkpoints.
        probe_batches: batches of the one-step probe, made halfway; 0 makes none.
    """

    budget: Budget
    lr: float
    schedule: Schedule
    eval_every: float
    save_every: float
    probe_batches: int

    def spent(self, steps: int, units: int, seconds: float) -> float:
        """The fraction of the budget that is spent; see `spent_fraction`."""
        return spent_fraction(self.budget, steps, units, seconds)

    def size(self, fraction: float) -> float:
        """The learner's step size at that fraction of the budget."""
        return self.lr * self.schedule.factor(fraction)
