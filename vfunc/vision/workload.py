"""The vision modality as the training loop sees it (`vfunc.workload.Workload`)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.forward_pass import autocast
from vfunc.learner import FunctionalLearner, RandomState
from vfunc.problem import KnownFeedback, Task, ValueProblem
from vfunc.problem.gains import Gains
from vfunc.processes import ALONE, Processes
from vfunc.sharding import ShardedLearner
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.storage.overflow import Overflow
from vfunc.trees import Params, Scalar
from vfunc.vision.data.batches import LabelledBatch, LabelledSet, UnlabeledBatch
from vfunc.vision.data.vision_data import (
    Pictures,
    VisionData,
    cyclic,
    stream_order,
    stream_pictures,
)
from vfunc.vision.designers.view_designer import (
    ViewDesigner,
    ViewDesignerConfig,
    load_view_designer,
)
from vfunc.vision.designers.views import masked_crops
from vfunc.vision.evaluation.dense_evaluation import DenseEvaluation
from vfunc.vision.evaluation.frozen_evaluation import ProbeOptions
from vfunc.vision.evaluation.revisited import Revisited
from vfunc.vision.feedback.fitted_feedback import Bank, fitted_feedback
from vfunc.vision.feedback.heads import HeadOptions
from vfunc.vision.learner import ObservedViews, VisionLearner
from vfunc.vision.loading.reading_ahead import ReadingAhead
from vfunc.vision.loading.sized_pictures import sized_roles
from vfunc.vision.masks_told import constant_masks, kept_of
from vfunc.vision.objectives.objective import Objective
from vfunc.vision.pixel_values import pixel_values, values_of_masks, worth_keeping
from vfunc.vision.value_map import map_values
from vfunc.vision.value_problem import vision_problem
from vfunc.workload import BuiltTask, Downstream, Evaluation, Forward, Half, Halves

Told = Callable[["VisionWorkload", UnlabeledBatch, int], Tensor]
"""The masks of a micro-batch's views, from the batch and its position in the stream."""


@dataclass(frozen=True)
class VisionFeedback:
    """A feedback batch, one entry a source: the heads' pictures, and, apart, those of g_down."""

    heads: tuple[LabelledBatch, ...]
    meta: tuple[LabelledBatch, ...]


@dataclass(frozen=True)
class DenseDownstream:
    """L_down of heads that are fitted.

    Attributes:
        loss: theta_S -> L_down.
        constant: see `vfunc.workload.Downstream`; no labels are known to say nothing.
        whole: see there; no domains are matched.
        notes: see there; there are none.
    """

    loss: Callable[[Params], Scalar]
    constant: bool = False
    whole: bool = True
    notes: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class VisionWorkload:
    """Learned views for a self-supervised ViT, steered by dense feedback.

    Attributes:
        stream: unlabeled pictures.
        sources: labelled ones; no task is asked of two of them.
        objective: DINO or I-JEPA.
        designer: the designer's kind and size.
        start_designer: a saved designer to start from, or None.
        batch_size: pictures in a micro-batch of the stream.
        meta_batch_size: number of these in an estimate.
        feedback_batch_size: labelled pictures that g_down is of.
        head_size: labelled pictures that the heads are fitted on, at each update.
        weights: of the feedback tasks in L_down, by name, for each source; only these are asked,
            and at least one of them weighs something.
        normalise: whether each task's loss is divided by its gradient's norm.
        heads: options of the heads' fit.
        probes: options of the frozen evaluation.
        fixed_alpha: share of the blurred picture in `uniform_smoothing`.
        device: the learner's device.
        dtype: dtype of mixed precision, or None.
        seed: seed of the stream's order, the crops, and the designer's initial parameters.
        fit_size: pictures that the probes of the evaluation are trained on.
        eval_size: pictures that they are measured on.
        oracle_blur: share of the blurred picture where `oracle` finds the picture worth less.
        retrieval: a benchmark of instance retrieval to measure on at the end, or None.
        processes: the processes that each hold a share of every batch; the heads' pictures are the
            same in all.
        told: what makes the masks of an arm that is told them; None in every other.
        overflow: the memory that labelled pictures and features of an evaluation may take.
        workers: threads that make the stream's next batches; 0 is none.
        unit: the unit of budgets.
    """

    stream: Pictures
    sources: tuple[VisionData, ...]
    objective: Objective
    designer: ViewDesignerConfig
    start_designer: str | None
    batch_size: int
    meta_batch_size: int
    feedback_batch_size: int
    head_size: int
    weights: tuple[Mapping[str, float], ...]
    normalise: bool
    heads: HeadOptions
    probes: ProbeOptions
    fixed_alpha: float
    device: torch.device
    dtype: torch.dtype | None
    seed: int
    fit_size: int
    eval_size: int
    oracle_blur: float = 0.3
    retrieval: Revisited | None = None
    processes: Processes = ALONE
    told: Told | None = None
    overflow: Overflow = field(default_factory=lambda: Overflow(math.inf))
    workers: int = 0
    unit: str = "images"

    @cached_property
    def _ahead(self) -> ReadingAhead[UnlabeledBatch]:
        # of a workload without threads of its own: they end with this one, and not at some time
        return ReadingAhead(replace(self)._crops, self.workers)

    @property
    def _labelled(self) -> tuple[Mapping[str, LabelledSet], ...]:
        """The sources' pictures by role, at the size of a batch."""
        return tuple(sized_roles(source, self.overflow) for source in self.sources)

    def smaller(self, examples: int) -> VisionWorkload:
        """See `Workload.smaller`."""
        return replace(
            self,
            batch_size=min(examples, self.batch_size),
            meta_batch_size=min(examples, self.meta_batch_size),
            feedback_batch_size=min(examples, self.feedback_batch_size),
            processes=ALONE,
            workers=0,
        )

    def among(self, processes: Processes) -> VisionWorkload:
        """See `Workload.among`."""
        return replace(self, processes=processes)

    def _at(self, index: int) -> int:
        """Where this process's share of a batch of all is, counted in shares."""
        return index * self.processes.size + self.processes.rank

    def batch(self, position: int) -> UnlabeledBatch:
        """See `Workload.batch`: crops that the seed and the position alone decide."""
        at = self._at(position)
        batch = self._ahead(at, [self._at(position + k + 1) for k in range(self.workers)])
        if self.told is not None:
            batch = replace(batch, masks=self.told(self, batch, position))
        return batch.to(self.device)

    def _crops(self, at: int) -> UnlabeledBatch:
        """The crops of a share of a batch; for several threads at once."""
        size = self.batch_size
        pictures = stream_pictures(self.stream, at * size, size, self.seed)
        return self.objective.batch(pictures, self._draw(at))

    def _draw(self, at: int) -> torch.Generator:
        """What a batch's crops are drawn by."""
        return torch.Generator().manual_seed(self.seed * 1_000_003 + at)

    def object_masks(self, position: int) -> Tensor:
        """Where the objects are in the views of the micro-batch at that position, (g, b, 1, h, w).

        Raises:
            UserError: the stream does not know it.
        """
        known = getattr(self.stream, "objects", None)
        if known is None:
            raise UserError(
                "the arm known_objects has to be told where the objects are, which only the "
                "embedded scenes can; take it out of --arms, or drop --feedback"
            )
        size, at = self.batch_size, self._at(position)
        order = stream_order(len(self.stream), at * size, size, self.seed)
        return self.objective.view_masks([known(index) for index in order], self._draw(at))

    def feedback(self, index: int) -> VisionFeedback:
        """See `Workload.feedback`."""
        return VisionFeedback(
            self._batches("heads", index, self.head_size),
            self._batches("feedback", self._at(index), self.feedback_batch_size),
        )

    def estimated(
        self, functional: FunctionalLearner, sharded: ShardedLearner | None = None
    ) -> VisionLearner:
        """See `Workload.estimated`: the cut is tried on one picture."""
        if sharded is not None:
            raise UserError("--shard-learner is for language; start a run on pictures without it")
        first = self.smaller(1).batch(0)
        return VisionLearner(functional, self.objective, self.dtype).cut(first)

    def forward(
        self,
        learner: nn.Module,
        batch: UnlabeledBatch,
        *,
        observe: bool,
        estimated: VisionLearner | None = None,
    ) -> Forward:
        """See `Workload.forward`: the view comes first, so the learner has nothing to see yet.

        Units are pictures; an estimate takes the first of them.
        """
        observed = self.look_ahead(learner, batch) if observe else None
        return Forward(batch, len(batch), None, observed)

    def look_ahead(
        self, learner: nn.Module, batch: UnlabeledBatch, *, estimated: VisionLearner | None = None
    ) -> ObservedViews:
        """See `Workload.look_ahead`."""
        return ObservedViews(batch.first(self.meta_batch_size))

    def of_arm(self, arm: str, followed: Sequence[Mapping[str, Any]] = ()) -> VisionWorkload:
        """See `Workload.of_arm`: all arms see the same pictures, and some are told masks.

        Raises:
            UserError: the arm that `matched_uniform` follows has made no masks.
        """
        if arm == "known_objects":
            return replace(self, told=lambda work, batch, at: work.object_masks(at))
        if arm == "matched_uniform":
            kept = kept_of(followed)
            return replace(self, told=lambda work, batch, at: constant_masks(batch, kept, at))
        return replace(self, told=None)

    def build_task(
        self,
        learner: nn.Module,
        arm: str,
        forward: Forward,
        designer: nn.Module | None,
        *,
        estimated: VisionLearner | None = None,
        g_down: Params | None = None,
    ) -> BuiltTask:
        """See `Workload.build_task`: the views, and the teacher's targets for them."""
        batch: UnlabeledBatch = forward.batch
        if ARMS[arm].valued:
            if g_down is None:
                arm = "baseline"
            else:
                assert estimated is not None
                worth = pixel_values(estimated, batch, g_down, self.sigma(batch.views))
                batch = replace(batch, masks=1 - self.oracle_blur * (1 - worth_keeping(worth)))
        with torch.no_grad():
            # the designer is small, and runs in its own precision
            views, notes = self._views(arm, batch, designer)
            with autocast(self.device, self.dtype):
                targets, carried = self.objective.targets(learner, batch, views)
        return BuiltTask((views, targets), notes, carried)

    def loss(self, learner: nn.Module, forward: Forward, task: BuiltTask) -> Tensor:
        """See `Workload.loss`."""
        views, targets = task.task
        if views.requires_grad or targets.requires_grad:
            raise ValueError("a learner steps on a detached task: views and targets have a graph")
        batch = replace(forward.batch, views=views)
        with autocast(self.device, self.dtype):
            calls = self.objective.calls(batch, views)
            outputs = {name: learner(*call) for name, call in calls.items()}
            return self.objective.parts(outputs, targets, batch).sum() / self.processes.size

    def stepped(
        self, learner: nn.Module, carried: Sequence[Mapping[str, Tensor]], fraction: float
    ) -> None:
        """See `Workload.stepped`: the teacher follows, and its centre, a mean over all pictures."""
        carried = [self.processes.mean(found) for found in carried]
        self.objective.stepped(learner, carried, fraction)

    def new_designer(self) -> ViewDesigner:
        """See `Workload.new_designer`."""
        if self.start_designer is not None:
            return load_view_designer(self.start_designer).to(self.device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return ViewDesigner(self.designer).to(self.device)

    def regularisers(
        self, designer: nn.Module, phi: Params, observed: ObservedViews
    ) -> Mapping[str, Scalar]:
        """See `Workload.regularisers`: paper, equation 54.

        On the first view of each picture: DINO's two are drawn alike, and the mean over one of
        them costs the designer half the work.
        """
        assert isinstance(designer, ViewDesigner)
        views = observed.batch.views[0]
        _, control = torch.func.functional_call(designer, phi, (views,))
        terms = designer.regularisers(control)
        return {name: term / self.processes.size for name, term in terms.items()}

    def bank(self, index: int, count: int) -> tuple[Bank, ...]:
        """This process's share of a bank of so many feedback pictures of each source, in batches.

        Args:
            index: the bank's number; one follows the other in the sources' order.
            count: pictures in it, of all processes.
        """
        return tuple(self._bank_of(held["feedback"], index, count) for held in self._labelled)

    def _bank_of(self, pictures: LabelledSet, index: int, count: int) -> Bank:
        size, share = self.feedback_batch_size, self.processes.share(count)

        def reader(chosen: list[int]) -> Callable[[], LabelledBatch]:
            return lambda: pictures.rows(chosen).to(self.device)

        there = cyclic(len(pictures), index, count)
        parts = (there[at : min(at + size, share.stop)] for at in share[::size])
        return tuple(reader(chosen) for chosen in parts)

    def downstream(
        self,
        estimated: VisionLearner,
        index: int,
        *,
        dropout: RandomState | None,
        seed: int,
        bank: int | None = None,
    ) -> DenseDownstream:
        """See `Workload.downstream`: the heads are refitted, with the backbone frozen."""
        if bank is not None:
            heads = self._batches("heads", index, self.head_size)
            measured = self.measured(estimated.functional, heads, self.bank(index, bank))
            return DenseDownstream(measured)
        labelled = self.feedback(index)
        return DenseDownstream(self.measured(estimated.functional, labelled.heads, labelled.meta))

    def problem(
        self,
        estimated: VisionLearner,
        designer: nn.Module,
        observed: tuple[ObservedViews, ...],
        downstream: Downstream,
        rule: UpdateRule,
        state: OptimizerState,
        *,
        dropout: RandomState | None,
        seed: int,
        known: KnownFeedback | None = None,
        gains: Gains | None = None,
    ) -> ValueProblem:
        """See `Workload.problem`; there are no gates.

        Raises:
            UserError: dropout is to be repeated: an estimate takes fewer pictures than the step.
        """
        if dropout is not None:
            raise UserError(
                "--estimate-mode train cannot repeat the learner's dropout on views: an estimate "
                "takes --meta-batch-size pictures alone; give --estimate-mode eval"
            )
        return vision_problem(
            estimated,
            designer,
            observed,
            downstream.loss,
            rule,
            state,
            seed=seed,
            notes=downstream.notes,
            known=known,
            processes=self.processes,
        )

    def measured(
        self,
        functional: FunctionalLearner,
        fitted_on: Sequence[LabelledBatch],
        measured: Sequence[LabelledBatch | Bank],
    ) -> Callable[[Params], Scalar]:
        """theta_S -> L_down on `measured`, the heads fitted on the other batches at theta_t."""
        given = zip(self.sources, self.weights, fitted_on, measured, strict=True)
        sources = [(source.classes, weights, fit, some) for source, weights, fit, some in given]
        return fitted_feedback(
            functional,
            sources,
            self.heads,
            normalise=self.normalise,
            processes=self.processes,
            precision=partial(autocast, self.device, self.dtype),
        )

    def stream_loss(self, estimated: VisionLearner, positions: range) -> Callable[[Params], Scalar]:
        """See `Workload.stream_loss`: refused, since a picture as it is has no mask to be."""
        raise UserError("the mean gradient of a bank of the stream (--mean-bank) is for text")

    def held_out(self, estimated: VisionLearner, index: int) -> Callable[[Params], Scalar]:
        """See `Workload.held_out`."""
        return self.measured(
            estimated.functional,
            self._batches("heads", index, self.head_size),
            self._batches("held_out", self._at(index), self.feedback_batch_size),
        )

    def feedback_batches(self) -> int:
        """See `Workload.feedback_batches`."""
        fewest = min(len(source.feedback) for source in self.sources)
        return fewest // (self.feedback_batch_size * self.processes.size)

    def halves(self, estimated: VisionLearner) -> Halves | None:
        """See `Workload.halves`: of several sources the sum, each by heads of its own."""
        held = [(len(s.heads), len(s.feedback), len(s.held_out)) for s in self.sources]
        fitted, *measured = (min(count) for count in zip(*held, strict=True))
        heads, count = min(fitted // 2, self.head_size), min(measured) // 2
        if heads < 1 or count < self.processes.size:
            return None

        def half(role: str, number: int) -> Half:
            fit = self._batches("heads", number, heads)
            banks = tuple(self._bank_of(held[role], number, count) for held in self._labelled)
            return Half((self.measured(estimated.functional, fit, banks),), count)

        feedback, held_out = ((half(role, 0), half(role, 1)) for role in ("feedback", "held_out"))
        return feedback, held_out

    def known_tasks(
        self, estimated: VisionLearner, position: int, batch: ObservedViews, task: Task
    ) -> Mapping[str, Task]:
        """See `Workload.known_tasks`: the views of arms that are told masks, and the whole blur."""
        if not hasattr(self.stream, "objects"):
            return {}
        views = batch.batch.views
        objects = self.object_masks(position)[:, : views.shape[1]].to(self.device)
        masks = {"known_objects": objects, "uniform_blur": torch.zeros_like(objects)}
        with torch.no_grad():
            made = {name: self._masked(views, mask) for name, mask in masks.items()}
            return {
                name: estimated.task(seen, batch)
                for name, seen in {"baseline": views, **made}.items()
            }

    def known_wrong(self, batch: Any, task: Task) -> None:
        """See `Workload.known_wrong`: of pictures no mistakes are known."""

    def values_in_bounds(
        self, estimated: VisionLearner, designer: nn.Module, observed: ObservedViews, g_down: Params
    ) -> Mapping[str, float]:
        """See `Workload.values_in_bounds`: to first order in mu, less V of the data as it is."""
        assert isinstance(designer, ViewDesigner)
        sigma = self.sigma(observed.batch.views)
        return values_of_masks(estimated, designer, observed.batch, g_down, sigma)

    def value_map(
        self,
        estimated: VisionLearner,
        designer: nn.Module,
        observed: ObservedViews,
        task: Task,
        cotangents: Mapping[str, Mapping[str, Tensor]],
    ) -> dict[str, Any]:
        """See `Workload.value_map`: dV / d mu, pixel by pixel, for a few views."""
        assert isinstance(designer, ViewDesigner)
        return map_values(estimated, designer, estimated.observe(observed), cotangents["dot"])

    def evaluate(self, learner: nn.Module, *, final: bool) -> Evaluation:
        """See `Workload.evaluate`: the held-out loss of fitted heads; at the end frozen probes."""
        evaluation = DenseEvaluation(
            self.heads, self.probes, self.fit_size, self.eval_size, self.overflow, self.retrieval
        )
        asked = list(zip(self.sources, self.weights, self._labelled, strict=True))
        with autocast(self.device, self.dtype):
            return evaluation.of(learner, asked, self.device, final=final)

    def _views(
        self, arm: str, batch: UnlabeledBatch, designer: nn.Module | None
    ) -> tuple[Tensor, dict[str, float]]:
        """The views that an arm's learner gets, and what to say of them."""
        views = batch.views
        if arm == "baseline":  # a designer's arm too, while it burns in
            return views, {}
        if designer is not None:
            view, control = designer(views.flatten(0, 1))
            assert isinstance(designer, ViewDesigner)
            notes = {}
            if designer.config.masks:
                (kept,) = self.processes.totals(float(control.mean()))
                notes = {"kept": kept / self.processes.size}
            return view.unflatten(0, views.shape[:2]), notes
        if batch.masks is None:
            assert arm == "uniform_smoothing"
            kept = 1 - self.fixed_alpha
            return self._masked(views, torch.full_like(views[:, :, :1], kept)), {"kept": kept}
        (total,) = self.processes.totals(float(batch.masks.mean()))
        return self._masked(views, batch.masks), {"kept": total / self.processes.size}

    def _masked(self, views: Tensor, masks: Tensor) -> Tensor:
        """The views where masks are 1, blurred where they are 0."""
        return masked_crops(views, masks, self.sigma(views))

    def sigma(self, views: Tensor) -> float:
        """Standard deviation of the blur of such views, pixels."""
        return self.designer.blur * min(views.shape[-2:])

    def _batches(self, role: str, index: int, size: int) -> tuple[LabelledBatch, ...]:
        """The batch at that position of a role's pictures, of each source."""
        return tuple(
            held[role].rows(cyclic(len(held[role]), index, size)).to(self.device)
            for held in self._labelled
        )
