"""Protocol of a modality for the training loop: batches, a forward, tasks, value problems.

The loop knows nothing else about what it trains on. The modalities' answers are
`vfunc.language.workload.LanguageWorkload` and `vfunc.vision.workload.VisionWorkload`; what reports
and files take of a modality is in `vfunc.modality`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.learner import FunctionalLearner, RandomState
from vfunc.problem import KnownFeedback, Task, ValueProblem
from vfunc.problem.gains import Gains
from vfunc.processes import Processes
from vfunc.sharding import ShardedLearner
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params, Scalar


@dataclass(frozen=True)
class Forward:
    """The learner's one forward of a micro-batch.

    Attributes:
        batch: the unlabeled batch, on the learner's device.
        units: number of units of a token or image budget in the batch.
        output: the learner's output, with its graph; None where the task comes first (a view has
            to be designed before the learner sees it).
        observed: the batch with what tasks take from the learner, detached; None if not asked for.
    """

    batch: Any
    units: int
    output: Tensor | None
    observed: Any | None


@dataclass(frozen=True)
class BuiltTask:
    """A detached task for the learner to step on.

    Attributes:
        task: the task.
        notes: numbers about it, for the log.
        carried: inputs of the learner's own bookkeeping after the step, detached.
        counts: of notes that are means, over how many tokens; a window's is over those of all its
            micro-batches. The others' is the mean of their micro-batches.
    """

    task: Any
    notes: Mapping[str, float]
    carried: Mapping[str, Tensor] = field(default_factory=dict)
    counts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """Held-out results.

    Attributes:
        metrics: numbers by name, None where there is too little to tell; `loss` is always among
            them.
        outcomes: per-example numbers by metric, for paired comparisons between arms; None for an
            example that has none.
    """

    metrics: Mapping[str, float | None]
    outcomes: Mapping[str, tuple[float | None, ...]]


@runtime_checkable
class Downstream(Protocol):
    """L_down at one moment."""

    @property
    def loss(self) -> Callable[[Params], Scalar]:
        """theta_S -> L_down."""
        ...

    @property
    def constant(self) -> bool:
        """Whether it is known to be constant: rewards that do not differ."""
        ...

    @property
    def whole(self) -> bool:
        """Whether it is asked as one, and not domain by domain."""
        ...

    @property
    def notes(self) -> Mapping[str, float]:
        """Numbers about it, for the log."""
        ...


def _not_there(theta: Params) -> Scalar:
    raise UserError(
        "the feedback is held (--feedback-every), so that L_down and g_down are there at the "
        "learner's own parameters alone, and the estimator asks for them elsewhere: it must not "
        "say `g_down_alone`"
    )


@dataclass(frozen=True)
class HeldDownstream:
    """L_down of which g_down is held: it was computed at an earlier update of the designer.

    Attributes:
        notes: see `Downstream`; its age is among them.
        loss: refuses, since the feedback itself is not there.
        constant: see `Downstream`.
        whole: see `Downstream`.
    """

    notes: Mapping[str, float]
    loss: Callable[[Params], Scalar] = _not_there
    constant: bool = False
    whole: bool = True


@dataclass(frozen=True)
class Half:
    """One of two draws of labelled examples that share nothing, heads' pictures neither.

    Attributes:
        losses: theta_S -> L_down on parts of it of the same size.
        examples: examples in it, of all processes.
    """

    losses: tuple[Callable[[Params], Scalar], ...]
    examples: int


Halves = tuple[tuple[Half, Half], tuple[Half, Half]]
"""Two draws of feedback, then two of held-out examples, all of one size."""


@runtime_checkable
class Workload(Protocol):
    """A modality's side of the loop. Nothing here changes the learner or global random state."""

    @property
    def unit(self) -> str:
        """What `Forward.units` counts: tokens or images."""
        ...

    @property
    def processes(self) -> Processes:
        """The processes that train together; what follows is of this one's share of the data."""
        ...

    def smaller(self, examples: int) -> Workload:
        """The same with batches, of feedback too, of at most so many examples, for one process."""
        ...

    def among(self, processes: Processes) -> Workload:
        """The same as one process's part: with N of them batches are N times as large, and shared.

        Losses are then parts of sums (see `vfunc.processes`).

        Raises:
            UserError: an option is for one process alone.
        """
        ...

    def batch(self, position: int) -> Any:
        """The unlabeled micro-batch at that position of the stream, on the learner's device."""
        ...

    def estimated(
        self, functional: FunctionalLearner, sharded: ShardedLearner | None = None
    ) -> Any:
        """The learner as estimates see it: a function of theta_S, cut below S if it can be.

        Made once an arm, since the cut is tried; every method that takes `estimated` takes this.

        Args:
            functional: the learner.
            sharded: where its blocks below S are shards: the learner in them, of which
                `functional` is the twin.

        Raises:
            UserError: it is in shards, and estimates would need it whole.
        """
        ...

    def forward(
        self, learner: nn.Module, batch: Any, *, observe: bool, estimated: Any | None = None
    ) -> Forward:
        """One forward in the learner's own mode, with its graph.

        With `estimated` an estimate follows at the same parameters: what it can use of this forward
        (activations below S) goes with what is observed.
        """
        ...

    def look_ahead(self, learner: nn.Module, batch: Any, *, estimated: Any | None = None) -> Any:
        """Observe a batch that the learner does not step on now, without a graph."""
        ...

    def of_arm(self, arm: str, followed: Sequence[Mapping[str, Any]] = ()) -> Workload:
        """The same for one arm: those that use labels directly read them, too; some are told masks.

        Args:
            arm: the arm's name.
            followed: what the arm that it follows (`Arm.follows`) logged at each micro-batch.
        """
        ...

    def build_task(
        self,
        learner: nn.Module,
        arm: str,
        forward: Forward,
        designer: nn.Module | None,
        *,
        estimated: Any | None = None,
        g_down: Params | None = None,
    ) -> BuiltTask:
        """The arm's task for this micro-batch, detached.

        Args:
            learner: the live learner.
            arm: the arm's name.
            forward: its forward on the micro-batch.
            designer: the arm's designer, or None.
            estimated: the learner as estimates see it; for an arm that goes by values.
            g_down: gradient of L_down; for such an arm, whose task is the text without it.
        """
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
            carried: `carried` of the window's tasks.
            fraction: fraction of the budget spent before the step.
        """
        ...

    def new_designer(self) -> nn.Module:
        """A designer as the run's seed initialises it, or as it was saved."""
        ...

    def regularisers(self, designer: nn.Module, phi: Params, observed: Any) -> Mapping[str, Scalar]:
        """The terms of R(phi) on this batch, by name, without their weights."""
        ...

    def downstream(
        self,
        estimated: Any,
        index: int,
        *,
        dropout: RandomState | None,
        seed: int,
        bank: int | None = None,
    ) -> Downstream:
        """L_down on a labelled batch, with what has to be drawn or fitted for it at theta_t.

        Args:
            estimated: the learner as estimates see it.
            index: position of the labelled batch, or of the bank.
            dropout: the random state whose dropout masks estimates repeat; None is without dropout.
            seed: seed of what is drawn.
            bank: so many labelled examples, of all processes, in the place of a batch: the loss is
                `InParts`, each of at most a batch. None is a batch.
        """
        ...

    def problem(
        self,
        estimated: Any,
        designer: nn.Module,
        observed: tuple[Any, ...],
        downstream: Any,
        rule: UpdateRule,
        state: OptimizerState,
        *,
        dropout: RandomState | None,
        seed: int,
        known: KnownFeedback | None = None,
        gains: Gains | None = None,
    ) -> ValueProblem:
        """The value problem at this moment.

        Args:
            estimated: the learner as estimates see it.
            designer: the designer, whose parameters are phi.
            observed: unlabeled batches with what tasks take from the learner, the next one first.
            downstream: what L_down is measured by, from the method of that name.
            rule: the learner's next optimizer step.
            state: the optimizer's state.
            dropout: the random state whose dropout masks estimates repeat; None is without dropout.
            seed: seed of what an estimator samples.
            known: L_down and g_down at theta_t, where they have been computed before.
            gains: watches the gates of the tasks, where they have such; None is not asked.
        """
        ...

    def stream_loss(self, estimated: Any, positions: range) -> Callable[[Params], Scalar]:
        """The learner's loss on unlabeled micro-batches of the stream as they are, in parts.

        Args:
            estimated: the learner as estimates see it.
            positions: the micro-batches' places in the stream.
        """
        ...

    def held_out(self, estimated: Any, index: int) -> Callable[[Params], Scalar]:
        """L_down on labelled data that no feedback batch holds (for the one-step probe alone)."""
        ...

    def feedback_batches(self) -> int:
        """How many feedback batches there are from the first on that share no example."""
        ...

    def halves(self, estimated: Any) -> Halves | None:
        """Two draws of feedback and two of held-out examples; None where there are too few."""
        ...

    def known_tasks(
        self, estimated: Any, position: int, batch: Any, task: Task
    ) -> Mapping[str, Task]:
        """Tasks of a micro-batch of which it is known what they do, by the name of their arm.

        `baseline` leaves it as it is. Empty where nothing is known of this micro-batch.

        Args:
            estimated: the learner as estimates see it.
            position: of the micro-batch in the stream.
            batch: it, as a `problem` holds it.
            task: a task that was made of it.
        """
        ...

    def known_wrong(self, batch: Any, task: Task) -> tuple[Task, Tensor, Tensor] | None:
        """The task that leaves a batch as it is, and which parts of its loss are mistaken.

        Args:
            batch: a batch as a `problem` holds it.
            task: a task that was made of it.

        Returns:
            The task; which of the parts count; which are known to be mistaken. None where the
            data know of no mistakes here, in any process: all of them answer alike.
        """
        ...

    def values_in_bounds(
        self, estimated: Any, designer: nn.Module, observed: Any, g_down: Params
    ) -> Mapping[str, float]:
        """V of a batch as it is (`text`), as the `designer` makes a task of it, and at most.

        The last is `oracle`; of pictures, V is to first order in their masks. Empty where the
        largest value is not known.
        """
        ...

    def value_map(
        self,
        estimated: Any,
        designer: nn.Module,
        observed: Any,
        task: Task,
        cotangents: Mapping[str, Mapping[str, Tensor]],
    ) -> dict[str, Any]:
        """Where in a task the value lies, as plain data for `Reporting.draw_map`.

        `cotangents` holds grad_c <w, g_pre> for the entries of the task that phi makes, by the name
        of w: `dot` (g_down itself) and `deflated` (without the stream's mean gradient).
        """
        ...

    def evaluate(self, learner: nn.Module, *, final: bool) -> Evaluation:
        """Held-out metrics; `final` adds those that are too slow to follow during a run."""
        ...
