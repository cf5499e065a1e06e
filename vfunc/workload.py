"""What the loop asks of a modality: batches, one forward, tasks, a value problem, evaluation.

The loop knows nothing else about what it trains on. The language modality's answer is
`vfunc.language.workload.LanguageWorkload`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vfunc.learner import FunctionalLearner, RandomState
from vfunc.problem import Task, ValueProblem
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params, Scalar


@dataclass(frozen=True)
class Forward:
    """The learner's one forward of a micro-batch.

    Attributes:
        batch: the unlabeled batch, on the learner's device.
        output: the learner's output, with its graph; None where the task comes first (a view has
            to be designed before the learner sees it).
        observed: the batch with what tasks take from the learner, detached; None if not asked for.
    """

    batch: Any
    output: Tensor | None
    observed: Any | None


@dataclass(frozen=True)
class BuiltTask:
    """A detached task for the learner to step on.

    Attributes:
        task: the task.
        notes: what to say about it in the log.
        carried: what the learner's own bookkeeping after the step takes from it, detached.
    """

    task: Any
    notes: Mapping[str, float]
    carried: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Metric:
    """A figure that arms are compared in.

    Attributes:
        name: its key in `Evaluation.metrics`.
        title: the head of its column.
        unit: what it is shown in: "%", "m", "nat" or nothing.
        higher_is_better: which way is up.
        outcomes: the key in `Evaluation.outcomes` of the per-example numbers that a paired
            comparison takes; None where there are none.
        scale: from the number to what is shown: 100 for a share in per cent.
        digits: decimals shown.
    """

    name: str
    title: str
    unit: str = ""
    higher_is_better: bool = False
    outcomes: str | None = None
    scale: float = 1.0
    digits: int = 4


@dataclass(frozen=True)
class Evaluation:
    """Held-out results.

    Attributes:
        metrics: numbers by name; `loss` is always among them.
        outcomes: per-example numbers by metric, for paired comparisons between arms.
    """

    metrics: Mapping[str, float]
    outcomes: Mapping[str, tuple[float, ...]]


@runtime_checkable
class Workload(Protocol):
    """A modality's side of the loop. Nothing here changes the learner or global random state."""

    unit: str
    """What a budget of tokens or images counts here."""

    metrics: tuple[Metric, ...]
    """What tables show, the primary one last; `loss` comes first."""

    def smaller(self, examples: int) -> Workload:
        """The same with batches, of feedback too, of at most so many examples."""
        ...

    def batch(self, position: int) -> Any:
        """The unlabeled micro-batch at that position of the stream, on the learner's device."""
        ...

    def feedback(self, index: int) -> Any:
        """The feedback batch at that position."""
        ...

    def count(self, batch: Any) -> int:
        """How many units of a token budget the batch holds."""
        ...

    def forward(
        self,
        learner: nn.Module,
        batch: Any,
        *,
        observe: bool,
        estimated: FunctionalLearner | None = None,
    ) -> Forward:
        """One forward in the learner's own mode, with its graph.

        `estimated` says that an estimate over this S follows at the same parameters: what it can
        use of this forward (activations below S) goes with what is observed.
        """
        ...

    def look_ahead(
        self, learner: nn.Module, batch: Any, *, estimated: FunctionalLearner | None = None
    ) -> Any:
        """Observe a batch that the learner does not step on now, without a graph."""
        ...

    def build_task(
        self, learner: nn.Module, arm: str, forward: Forward, designer: nn.Module | None
    ) -> BuiltTask:
        """The arm's task for this micro-batch, detached."""
        ...

    def loss(self, learner: nn.Module, forward: Forward, task: BuiltTask) -> Tensor:
        """The learner's self-supervised loss on the task, from the forward it has if it has one."""
        ...

    def stepped(
        self, learner: nn.Module, carried: Sequence[Mapping[str, Tensor]], fraction: float
    ) -> None:
        """The learner's own bookkeeping after an optimizer step: a teacher's moving average.

        Args:
            learner: changed in place, in what no optimizer holds.
            carried: of the window's tasks.
            fraction: of the budget that was spent before the step.
        """
        ...

    def new_designer(self) -> nn.Module:
        """A designer as drawn from the run's seed."""
        ...

    def regularisers(self, designer: nn.Module, phi: Params, observed: Any) -> Mapping[str, Scalar]:
        """The terms of R(phi) on this batch, by name, without their weights."""
        ...

    def problem(
        self,
        functional: FunctionalLearner,
        designer: nn.Module,
        observed: tuple[Any, ...],
        feedback: Any,
        rule: UpdateRule,
        state: OptimizerState,
        *,
        dropout: RandomState | None,
        seed: int,
    ) -> ValueProblem:
        """The value problem at this moment."""
        ...

    def held_out(self, functional: FunctionalLearner, index: int) -> Callable[[Params], Scalar]:
        """L_down on labelled data that no feedback batch holds (for the probe alone)."""
        ...

    def value_map(
        self,
        functional: FunctionalLearner,
        designer: nn.Module,
        observed: Any,
        task: Task,
        cotangent: Mapping[str, Tensor],
    ) -> dict[str, Any]:
        """Where in a task the value lies, as plain data for a picture.

        `cotangent` is grad_c V, V = <g_down, g_pre>, for the entries of the task that phi makes.
        """
        ...

    def draw_map(self, fields: Mapping[str, Any], path: Path) -> None:
        """Draw what `value_map` gave, as a PNG."""
        ...

    def describe(self) -> Sequence[str]:
        """What is read, in lines for the start of a run."""
        ...

    def summary(self) -> Mapping[str, Any]:
        """What is read, as plain data for metrics.json."""
        ...

    def save_learner(self, learner: nn.Module, path: Path) -> None:
        """Write the trained learner to a directory, as outside tools load it."""
        ...

    def save_designer(self, designer: nn.Module, path: Path) -> None:
        """Write the designer to a file that `--designer` takes."""
        ...

    def evaluate(self, learner: nn.Module, *, final: bool) -> Evaluation:
        """Held-out metrics; `final` adds those that are too slow to follow during a run."""
        ...

    def autocast(self) -> torch.dtype | None:
        """The dtype of mixed precision, or None."""
        ...
