"""The arms of a comparison: same learner, stream, optimizer and loss; only the targets differ."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Arm:
    """How one arm gets its tasks.

    Attributes:
        name: the name in `--arms`.
        designed: whether a designer makes its tasks.
        observes: whether its tasks need candidates (the baseline does not pay for them).
        random: whether its designer is trained on a random direction instead of feedback.
    """

    name: str
    designed: bool = False
    observes: bool = True
    random: bool = False


ARMS: dict[str, Arm] = {
    arm.name: arm
    for arm in (
        Arm("baseline", observes=False),
        Arm("vpretraining", designed=True),
        Arm("random_feedback", designed=True, random=True),
        Arm("uniform_smoothing"),
        Arm("self_distillation"),
        Arm("confidence_gate"),
        Arm("known_wrong"),
    )
}
