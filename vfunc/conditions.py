"""Conditions on a run's options that several declarations share: arms, learner, subsets."""

from __future__ import annotations

import re
from collections.abc import Callable

from vfunc.arms import ARMS
from vfunc.config.declared import Condition, Need, Options
from vfunc.errors import UserError

EMBEDDED = "embedded"
"""`--learner`: the small base that comes with the package."""

EMBEDDED_LEARNER = Condition(
    "for the embedded learner", lambda options: options["learner"] == EMBEDDED
)
ADAPTED = Condition("with LoRA", lambda options: options["lora_rank"] > 0)
SHORTCUT = Condition(
    "on the problems shortcut and clean",
    lambda options: options["problem"] in ("shortcut", "clean"),
)
"""Of pictures: the embedded scenes that a signature can be laid over."""
SHORTCUT_LEARNER = Condition(
    "for their embedded learner",
    lambda options: EMBEDDED_LEARNER.holds(options) and SHORTCUT.holds(options),
)
DESIGNED_ARMS = tuple(name for name, arm in ARMS.items() if arm.designed)


def any_arm(arms: tuple[str, ...]) -> Callable[[Options], bool]:
    """Whether any of these arms is to run."""
    return lambda options: any(arm in arms for arm in options["arms"])


DESIGNED = Need(
    any_arm(DESIGNED_ARMS), f"it needs an arm with a designer, {' or '.join(DESIGNED_ARMS)}"
)
VALUED_ARMS = tuple(name for name, arm in ARMS.items() if arm.valued)
GUIDED_ARMS = (*DESIGNED_ARMS, *VALUED_ARMS)
GUIDED = Need(
    any_arm(GUIDED_ARMS),
    f"it needs an arm that goes by values, {', '.join(GUIDED_ARMS[:-1])} or {GUIDED_ARMS[-1]}",
)
LABELLED_ARMS = tuple(
    name for name, arm in ARMS.items() if arm.designed or arm.valued or arm.direct
)
LABELLED = Need(any_arm(LABELLED_ARMS), f"it needs an arm with labels, {', '.join(LABELLED_ARMS)}")
TRAINED = Need(
    lambda options: not options["freeze_designer"], "--freeze-designer trains no designer"
)
STEERED = Need(
    lambda options: TRAINED.holds(options) or any_arm(VALUED_ARMS)(options), TRAINED.reason
)
"""Of what g_down is made by: a frozen designer does without, arms by formula do not."""
NEW_DESIGNER = Need(
    lambda options: options["designer"] is None,
    "it is saved with the designer that --designer names",
)

_SUBSET = re.compile(r"all|last:[1-9]\d*|lora|lora:last:[1-9]\d*|re:.+")


def check_subset(subset: str, where: str) -> None:
    """Refuse what names no subset of parameters, as `vfunc.learner.functional` takes them.

    Raises:
        UserError: the forms that there are.
    """
    if not _SUBSET.fullmatch(subset):
        raise UserError(
            f"{where} must be all, last:N, lora, lora:last:N or re:PATTERN, not {subset!r}"
        )
