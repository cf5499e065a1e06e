"""Which micro-batches each simulated step takes, and the share of each in its step's gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from vfunc.errors import UserError
from vfunc.simulate.plain_numbers import plain_number

Shares: TypeAlias = tuple[float, ...]
"""The shares of a window's micro-batches in the gradient of its step, in their order."""


@dataclass(frozen=True)
class Taken:
    """The micro-batches of some simulated steps.

    Attributes:
        shares: a step's each; the problem's batches are taken in turn.
        open_full: whether the first step has all that its window has yet to take.
        later_full: whether every later one has its whole window.
    """

    shares: tuple[Shares, ...]
    open_full: bool
    later_full: bool

    @property
    def batches(self) -> int:
        """How many batches that is."""
        return sum(map(len, self.shares))

    def of_step(self, k: int) -> list[tuple[int, float]]:
        """The batches of step k: (position among the problem's, share)."""
        first = sum(map(len, self.shares[:k]))
        return list(enumerate(self.shares[k], first))


@dataclass(frozen=True)
class Windows:
    """The windows of the next steps, as far as they are known.

    Attributes:
        now: what the open window takes, from the present micro-batch on; None is not known.
        later: k -> the window of the k-th step after the next one; a step that is not there has
            `usual`.
        usual: the window of any later step; None is not known.
        weight: the present micro-batch's share.
    """

    now: Shares | None
    later: Mapping[int, Shares]
    usual: Shares | None
    weight: float

    def taken(self, steps: int, batches: int) -> Taken:
        """Whole windows where there are the batches for them, else one micro-batch a step.

        The open window's rest goes first, since it is known to be a part of what is left out.

        Args:
            steps: how many steps are simulated.
            batches: how many batches there are, one a step or more.
        """
        now = (self.weight,)
        later = [self.later.get(k, self.usual) for k in range(1, steps)]
        known = [shares for shares in later if shares is not None]
        whole = len(known) == len(later) and len(now) + sum(map(len, known)) <= batches
        single = ((1.0,),) * len(later)
        chosen = tuple(known) if whole else single
        if self.now is not None and len(self.now) + sum(map(len, chosen)) <= batches:
            now = self.now
        return Taken(
            (now, *chosen),
            self.now is not None and len(now) == len(self.now),
            whole or all(shares is not None and len(shares) == 1 for shares in later),
        )


def equal_windows(weight: float, *, closes: bool, begins: bool) -> Windows:
    """Windows of equal shares, as the present micro-batch's tells.

    Args:
        weight: the present micro-batch's share, 1 / n.
        closes: whether it is its window's last.
        begins: whether it is its window's first.
    """
    count = round(1 / weight) if 0 < weight <= 1 else 0
    usual = (
        (1 / count,) * count if count and math.isclose(count * weight, 1, rel_tol=1e-6) else None
    )
    now = None
    if closes:
        now = (weight,)
    elif begins and usual is not None:
        now = (weight,) * len(usual)
    return Windows(now, {}, usual, weight)


def given_windows(windows: Sequence[Shares]) -> Windows:
    """Windows whose shares are known, the open one first; of steps beyond nothing is known."""
    now, *later = windows
    return Windows(now, dict(enumerate(later, 1)), None, now[0])


def read_windows(given: Any) -> tuple[Shares, ...]:
    """The shares as tuples of numbers.

    Raises:
        UserError: no windows, one without a micro-batch, or a share that is no positive number.
    """
    if not isinstance(given, Iterable) or not all(isinstance(one, Iterable) for one in given):
        raise UserError(f"windows takes the shares of each step's micro-batches, not {given!r:.60}")
    found = tuple(map(tuple, given))
    if any(type(x) not in (float, int) for one in found for x in one):
        found = tuple(map(plain_number, found))
    if not found or not all(found):
        raise UserError(f"windows takes one micro-batch or more a step, not {found!r:.60}")
    shares = [x for one in found for x in one]
    if not all(isinstance(x, float | int) and 0 < x < math.inf for x in shares):
        raise UserError(f"windows takes shares above 0, not {found!r:.60}")
    return tuple(tuple(map(float, one)) for one in found)
