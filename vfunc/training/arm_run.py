"""Holds all that an arm's training carries in one object, with the options of its steps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from vfunc.arms import Arm
from vfunc.estimators import Estimator
from vfunc.simulate.schedule import Schedule
from vfunc.simulate.windows import Shares
from vfunc.training.budget import ArmPlan
from vfunc.training.log import Log
from vfunc.training.state import ArmState
from vfunc.workload import Workload


@dataclass(frozen=True)
class StepOptions:
    """How an arm is trained.

    Attributes:
        accumulate: micro-batches an optimizer step.
        clip: full-model gradient-norm clipping; 0 is off.
        meta_period: r, micro-batches between designer updates.
        burn_in: micro-batches before the first; until then a designer's arm is the baseline.
        look_ahead: learner steps that the estimator looks ahead.
        penalties: lambda of each term of the designer's regulariser R(phi), by its name.
        train_mode: whether estimates repeat the learner's dropout masks.
        seed: seed of what estimators sample.
        feedback_bank: labelled examples that g_down is of, in parts; None is a feedback batch.
        feedback_every: designer updates that one g_down serves.
        mean_bank: micro-batches of the stream whose mean gradient is held; None holds none.
        penalties_in_values: lambda of some of the terms, in units of the typical value of a task's
            element (see `Gains`).
        designer_warmup: designer updates before the first task that it makes, the learner held.
        designer_steps: steps of the designer's optimizer an update, all by one estimate's value of
            the task's entries.
        designer_lr: step size of the designer's optimizer at the start.
        designer_final_lr: that at the end of the budget, as a fraction; None leaves it alone.
    """

    accumulate: int
    clip: float
    meta_period: int
    burn_in: int
    look_ahead: int
    penalties: Mapping[str, float]
    train_mode: bool
    seed: int
    feedback_bank: int | None = None
    feedback_every: int = 1
    mean_bank: int | None = None
    penalties_in_values: Mapping[str, float] = field(default_factory=dict)
    designer_warmup: int = 0
    designer_steps: int = 1
    designer_lr: float = 0.0
    designer_final_lr: float | None = None


@runtime_checkable
class Pace(Protocol):
    """Where a loop that is not this package's stands in its window, and how it goes on."""

    @property
    def begun(self) -> bool:
        """Whether the window has taken micro-batches before the present one."""
        ...

    @property
    def gradient_of(self) -> float:
        """What `.grad` of this process is a multiple of while the window is open."""
        ...

    @property
    def schedule(self) -> Schedule | None:
        """What the sizes of later steps follow; None keeps the present one."""
        ...

    def windows(self, ahead: int) -> tuple[Shares, ...]:
        """The shares of what the next steps take, so many; of the present window, the rest."""
        ...


@dataclass(frozen=True)
class ArmRun:
    """One arm in training. `vfunc.training.start.start_arm` makes it.

    Attributes:
        arm: the arm, which decides the tasks.
        state: the live modules and optimizers, changed in place, and counters.
        workload: the modality's side of the loop.
        estimated: the learner as estimates see it (`Workload.estimated`); None for an arm that
            asks for no value.
        estimator: estimator of the designer's value, or None.
        options: options of a step.
        plan: plan of the whole training.
        log: receiver of events, progress and checkpoints.
        pace: the pace of another loop that takes the steps; None is `vfunc.training.loop`.
    """

    arm: Arm
    state: ArmState
    workload: Workload
    estimated: Any
    estimator: Estimator | None
    options: StepOptions
    plan: ArmPlan
    log: Log
    pace: Pace | None = None

    def later_size(self, k: int) -> float:
        """The learner's step size k optimizer steps after the next one.

        On a budget of tokens, images or seconds it is that at the mean pace so far; before the
        first micro-batch there is none, and the size is the next step's.
        """
        return self.plan.size(self.later_fraction(k))

    def later_fraction(self, k: int) -> float:
        """The fraction of the budget that is spent as that step begins; 1 past its end."""
        at, every = self.state.counters, self.options.accumulate
        units = seconds = 0.0
        if at.micro_batch:
            begun = at.micro_batch - at.micro_batch % every  # micro-batches before this window
            units = at.units / at.micro_batch * (begun + k * every)
        if at.step:
            seconds = at.seconds / at.step * (at.step + k)
        return self.plan.spent(at.step + k, round(units), seconds)

    @property
    def where(self) -> str:
        """Where the arm stands, for messages."""
        return f"arm {self.arm.name}, step {self.state.counters.step}"

    @property
    def counted(self) -> dict[str, Any]:
        """Where the arm stands, as every event has it."""
        at, unit = self.state.counters, self.workload.unit
        return {"arm": self.arm.name, "step": at.step, unit: at.units, "seconds": at.seconds}
