"""Draws candidate tasks of pictures: masks of their views, at several distances from none."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vfunc.arms import ARMS
from vfunc.problem import KnownFeedback, Task, ValueProblem
from vfunc.studies.score.families import Family, drawn_anew, in_turn, varied
from vfunc.training.arm_run import ArmRun
from vfunc.trees import Params
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.designers.view_designer import ViewDesigner
from vfunc.vision.designers.views import masked_crops
from vfunc.vision.learner import ObservedViews, VisionLearner
from vfunc.vision.pixel_values import pixel_values, worth_keeping
from vfunc.vision.workload import VisionWorkload

Masks = Callable[[VisionWorkload, UnlabeledBatch, int], Tensor]
"""Of a micro-batch and its place in the stream: masks (g, b, 1, h, w) in [0, 1]."""


@dataclass(frozen=True)
class ViewCandidate:
    """A task: a rule that makes masks of any micro-batch, and how far it is gone.

    Attributes:
        kind: of what family.
        number: which of the family.
        share: from 0, the pictures as they are, to 1.
        masks: the rule.
    """

    kind: str
    number: int
    share: float
    masks: Masks

    def kept(self, workload: VisionWorkload, batch: UnlabeledBatch, position: int) -> Tensor:
        """The masks of the task: 1 keeps the picture."""
        with torch.no_grad():
            masks = self.masks(workload, batch, position)
            return torch.lerp(torch.ones_like(masks), masks, self.share)  # at 1 they are the masks

    def at(self, share: float) -> ViewCandidate:
        """The same at another distance."""
        return replace(self, share=share)

    def doing(self, work: ArmRun) -> ArmRun:
        """The arm that is told the task's masks; its state is that of `work`."""
        workload = work.workload
        assert isinstance(workload, VisionWorkload)
        return replace(work, arm=ARMS["known_objects"], workload=replace(workload, told=self.kept))


@dataclass(frozen=True)
class ViewOffer:
    """A batch, and the masks that are on offer on it.

    Attributes:
        observed: the batch.
        moves: (M, g, b, 1, h, w) what each task takes off a mask of ones.
        learner: makes the task of views.
        sigma: of the blur, pixels.
    """

    observed: ObservedViews
    moves: Tensor
    learner: VisionLearner
    sigma: float


def viewed(problem: ValueProblem, offer: ViewOffer, moved: Tensor) -> Task:
    """The task of the masks 1 + `moved`, for `asking.offering`."""
    seen = masked_crops(offer.observed.batch.views, 1 + moved, offer.sigma)
    return offer.learner.task(seen, offer.observed)


class PixelValues:
    """What pixels are worth at the state, by the feedback used.

    The learner is held at the state, whatever batch is asked about.
    """

    def __init__(self, learner: VisionLearner, g_down: Params) -> None:
        self._learner, self._g_down = learner, g_down
        self._found: dict[int, Tensor] = {}

    def __call__(self, workload: VisionWorkload, batch: UnlabeledBatch, position: int) -> Tensor:
        """(g, b, 1, h, w) values of the micro-batch at that position."""
        if position not in self._found:
            here = batch.to(workload.device)
            values = pixel_values(self._learner, here, self._g_down, workload.sigma(here.views))
            self._found[position] = values.to(batch.views.device)
        return self._found[position]


def views_on_offer(
    run: ArmRun,
    problem: ValueProblem,
    known: KnownFeedback,
    designers: Sequence[nn.Module],
    count: int,
    seed: int,
) -> tuple[list[ViewCandidate], list[ViewOffer]]:
    """Draw tasks, and put them on offer on the problem's batches.

    Args:
        run: the arm at the state; it is not changed.
        problem: a question about the next batches.
        known: L_down and its gradient there, which oracles go by.
        designers: the arm's own designer at points of its training, the latest first.
        count: how many tasks.
        seed: of what is drawn.
    """
    workload, learner = run.workload, run.estimated
    assert isinstance(workload, VisionWorkload)
    assert isinstance(learner, VisionLearner)
    values = PixelValues(learner, known.gradient)
    objects = hasattr(workload.stream, "objects")
    families: list[Family[ViewCandidate]] = [
        *([_varied("known_objects", _objects)] if objects else []),
        *([_varied("designer", *map(_designed, designers))] if designers else []),
        _random("random_field", _random_field, seed),
        _varied("uniform_blur", _nothing),
        _varied("oracle", partial(_oracle, values, 1.0)),
        _random("random_colour", _random_colour, seed + 1),
        *([_varied("objects_blurred", _all_but_objects)] if objects else []),
        _varied("worst", partial(_oracle, values, -1.0)),
    ]
    candidates = in_turn(count, families)
    first = run.state.counters.micro_batch
    offers = []
    for k, observed in enumerate(problem.batches):
        batch = workload.batch(first + k)
        pictures = observed.batch.views.shape[1]
        kept = [c.kept(workload, batch, first + k)[:, :pictures] for c in candidates]
        moves = torch.stack(kept).to(observed.batch.views) - 1
        offers.append(ViewOffer(observed, moves, learner, workload.sigma(batch.views)))
    return candidates, offers


def feedback_there(workload: VisionWorkload) -> tuple[int, int]:
    """How many feedback pictures the source with fewest has, and how many a batch has."""
    return min(len(source.feedback) for source in workload.sources), workload.feedback_batch_size


_varied, _random = partial(varied, ViewCandidate), partial(drawn_anew, ViewCandidate)


def _objects(workload: VisionWorkload, batch: UnlabeledBatch, position: int) -> Tensor:
    return workload.object_masks(position).to(batch.views.device)


def _all_but_objects(workload: VisionWorkload, batch: UnlabeledBatch, position: int) -> Tensor:
    return 1 - _objects(workload, batch, position)


def _nothing(workload: VisionWorkload, batch: UnlabeledBatch, position: int) -> Tensor:
    return torch.zeros_like(batch.views[:, :, :1])


def _designed(designer: nn.Module) -> Masks:
    assert isinstance(designer, ViewDesigner)

    def masks(workload: VisionWorkload, batch: UnlabeledBatch, position: int) -> Tensor:
        views = batch.views.to(workload.device)
        control = designer.control(views.flatten(0, 1))
        return control.unflatten(0, views.shape[:2]).to(batch.views.device)

    return masks


def _random_field(source: torch.Generator) -> Masks:
    """A smooth mask that is the same for every view."""
    field = 2 * torch.randn(1, 1, 4, 4, generator=source) + torch.randn(
        1, 1, 1, 1, generator=source
    )

    def masks(workload: VisionWorkload, batch: UnlabeledBatch, position: int) -> Tensor:
        views = batch.views
        wide = F.interpolate(field, views.shape[-2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(2 * wide).to(views).expand(*views.shape[:2], -1, -1, -1)

    return masks


def _random_colour(source: torch.Generator) -> Masks:
    """A mask that is a random function of a pixel's colour."""
    weight, start = torch.randn(3, generator=source), torch.randn(1, generator=source)

    def masks(workload: VisionWorkload, batch: UnlabeledBatch, position: int) -> Tensor:
        views = batch.views
        along = torch.einsum("c,gbchw->gbhw", 8 * weight.to(views), views - 0.5)
        return torch.sigmoid(along + start.to(views))[:, :, None]

    return masks


def _oracle(
    values: PixelValues,
    sign: float,
    workload: VisionWorkload,
    batch: UnlabeledBatch,
    position: int,
) -> Tensor:
    """Keeps the cells whose pixels are worth keeping, to first order: or (sign -1) the others."""
    return worth_keeping(sign * values(workload, batch, position))
