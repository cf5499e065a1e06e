"""When an option does something: the form of the rules, and what they are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from vfunc.training.arms import ARMS

Options = Mapping[str, Any]

DESIGNED_ARMS = tuple(name for name, arm in ARMS.items() if arm.designed)
NEEDS_DESIGNER = f"it needs an arm with a designer, {' or '.join(DESIGNED_ARMS)}"


@dataclass(frozen=True)
class Rule:
    """`names` do something only where `applies`; `reason` says why not elsewhere."""

    names: tuple[str, ...]
    applies: Callable[[Options], bool]
    reason: str


def any_arm(arms: tuple[str, ...]) -> Callable[[Options], bool]:
    """Whether any of these arms is to run."""
    return lambda options: any(arm in arms for arm in options["arms"])
