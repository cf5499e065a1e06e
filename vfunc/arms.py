"""The arms of a comparison: same learner, stream, optimizer and loss; only the targets differ.

All but `mixing`, `sft` and the arms that TRL trains, which use the labels directly: they are what
indirect use of the same labels has to be measured against.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

PhaseKind = Literal["sft", "grpo"]
"""Trainings by TRL: its `SFTTrainer` and its `GRPOTrainer`."""


@dataclass(frozen=True)
class Arm:
    """How one arm gets its tasks.

    Attributes:
        name: the name in `--arms`.
        designed: whether a designer makes its tasks.
        observes: whether its tasks need candidates (the baseline does not pay for them).
        random: whether its designer is trained on a random direction instead of feedback.
        valued: whether its tasks are made from the value of each candidate token, or pixel, by
            formula, from g_down at every micro-batch.
        direct: whether the learner steps on the labelled examples themselves.
        follows: the arm of the same run, trained before, whose log its tasks are made by; "" is
            none.
        phases: the trainings by TRL that it is made of, one after the other; none are of this
            package's own loop.
    """

    name: str
    designed: bool = False
    observes: bool = True
    random: bool = False
    valued: bool = False
    direct: bool = False
    follows: str = ""
    phases: tuple[PhaseKind, ...] = ()


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
        Arm("known_objects", observes=False),
        Arm("matched_uniform", observes=False, follows="vpretraining"),
        Arm("oracle", valued=True),
        Arm("tilted_oracle", valued=True),
        Arm("mixing", observes=False, direct=True),
        Arm("sft", observes=False, direct=True),
        Arm("trl_sft", observes=False, direct=True, phases=("sft",)),
        Arm("grpo", observes=False, direct=True, phases=("grpo",)),
        Arm("sft+grpo", observes=False, direct=True, phases=("sft", "grpo")),
    )
}
