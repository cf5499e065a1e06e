"""The trainings that an arm is made of, one after the other, and which of them is due."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc.arms import Arm, PhaseKind


@dataclass(frozen=True)
class Phase:
    """One training of an arm, on its stretch of the budget.

    Attributes:
        kind: what trains.
        start: fraction of the budget at which it begins.
        end: fraction at which it ends.
    """

    kind: PhaseKind
    start: float
    end: float

    def fraction(self, spent: float) -> float:
        """The fraction of its own stretch, for its step sizes, at that fraction of the budget."""
        return min(max((spent - self.start) / (self.end - self.start), 0.0), 1.0)


def phases_of(arm: Arm, sft_share: float) -> tuple[Phase, ...]:
    """The trainings of an arm, in order.

    Args:
        arm: an arm that TRL trains.
        sft_share: share of the budget that the first of two has.
    """
    if len(arm.phases) == 1:
        return (Phase(arm.phases[0], 0.0, 1.0),)
    first, second = arm.phases
    return Phase(first, 0.0, sft_share), Phase(second, sft_share, 1.0)


def due(phases: tuple[Phase, ...], spent: float) -> int:
    """The number of the training that is due at that fraction of the budget, below 1."""
    return next(n for n, phase in enumerate(phases) if spent < phase.end)
