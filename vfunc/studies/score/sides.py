"""What the score asks of a modality: its tasks, its feedback, and how an effect is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from vfunc.problem import KnownFeedback, Task, ValueProblem
from vfunc.training.arm_run import ArmRun
from vfunc.workload import Workload


@runtime_checkable
class Candidate(Protocol):
    """A task that can be done on any micro-batch, at some distance from the batch as it is."""

    @property
    def kind(self) -> str:
        """Of what family."""
        ...

    @property
    def number(self) -> int:
        """Which of the family."""
        ...

    @property
    def share(self) -> float:
        """Its distance, from 0 to 1."""
        ...

    def at(self, share: float) -> Candidate:
        """The same at another distance."""
        ...

    def doing(self, work: ArmRun) -> ArmRun:
        """The arm that does it, with the state of `work`, which may be changed."""
        ...


@runtime_checkable
class OnOffer(Protocol):
    """Draws tasks, and puts them on offer on a problem's batches."""

    def __call__(
        self,
        run: ArmRun,
        problem: ValueProblem,
        known: KnownFeedback,
        designers: Sequence[nn.Module],
        count: int,
        seed: int,
    ) -> tuple[Sequence[Candidate], Sequence[Any]]:
        """The tasks, and what is on offer on each batch."""
        ...


@dataclass(frozen=True)
class Side:
    """A modality's side of the score.

    Attributes:
        on_offer: draws tasks.
        made: see `asking.offering`.
        feedback_there: how many feedback examples there are, and how many a batch has.
        linear: whether the loss is linear in what tasks change, so that a value that is linear in
            g_pre is its own slope.
        refits: whether L_down is of something that is fitted to the learner (heads): an effect is
            measured with a fit of its own.
    """

    on_offer: OnOffer
    made: Callable[[ValueProblem, Any, Tensor], Task]
    feedback_there: Callable[[Any], tuple[int, int]]
    linear: bool
    refits: bool


def side_of(workload: Workload) -> Side:
    """The side of a run's modality."""
    # imported here: either modality does without the other's packages
    if workload.unit == "tokens":
        from vfunc.studies.score.asking import mixed
        from vfunc.studies.score.tasks_on_offer import feedback_there, texts_on_offer

        return Side(texts_on_offer, mixed, feedback_there, linear=True, refits=False)
    from vfunc.studies.score.views_on_offer import feedback_there, viewed, views_on_offer

    return Side(views_on_offer, viewed, feedback_there, linear=False, refits=True)
