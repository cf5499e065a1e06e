"""What the loop asks of a modality: batches, one forward, tasks, a value problem, evaluation.

The loop knows nothing else about what it trains on. The language modality's answer is
`vfunc.language.workload.LanguageWorkload`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
        output: the learner's output, with its graph.
        observed: the batch with what tasks take from the learner, detached; None if not asked for.
    """

    batch: Any
    output: Tensor
    observed: Any | None


@dataclass(frozen=True)
class BuiltTask:
    """A detached task for the learner to step on, and what to say about it in the log."""

    task: Any
    notes: Mapping[str, float]


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
    """What a token budget counts here."""

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

    def build_task(self, arm: str, forward: Forward, designer: nn.Module | None) -> BuiltTask:
        """The arm's task for this micro-batch, detached."""
        ...

    def loss(self, forward: Forward, task: BuiltTask) -> Tensor:
        """The learner's self-supervised loss on the task, from the forward it already has."""
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
        self, observed: Any, task: Task, cotangent: Mapping[str, Tensor]
    ) -> dict[str, Any]:
        """Where in a task the value lies, as plain data for a picture.

        `cotangent` is grad_c V, V = <g_down, g_pre>, for the entries of the task that phi makes.
        """
        ...

    def evaluate(self, learner: nn.Module, *, final: bool) -> Evaluation:
        """Held-out metrics; `final` adds those that are too slow to follow during a run."""
        ...

    def autocast(self) -> torch.dtype | None:
        """The dtype of mixed precision, or None."""
        ...
