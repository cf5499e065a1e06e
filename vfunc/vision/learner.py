"""A student and its teacher as estimates see them: pure functions of theta_S and a task.

phi acts on the learner's input. Where the learner is cut at the lower edge of S, the task holds
what enters S (the edge) with its graph back through the blocks below, the view and the designer,
and so does what the teacher makes of the view: `Construction.pull` is then one plain vjp, fused
attention and all, and second-order transforms see the blocks of S alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from vfunc.forward_pass import autocast
from vfunc.learner import FunctionalLearner, as_estimated
from vfunc.problem import Task
from vfunc.split import UNCUT, Split, Whole, split_at_edge
from vfunc.trees import Params
from vfunc.vision.data.batches import Blocks, UnlabeledBatch
from vfunc.vision.objectives.objective import Call, Objective

Views = Float[Tensor, "g b 3 h w"]


@dataclass(frozen=True)
class ObservedViews:
    """An unlabeled batch, and what of the learner's work on it no view can change.

    Attributes:
        batch: the crops.
        edges: outputs of the blocks below S for the calls that see no designed view, by call.
    """

    batch: UnlabeledBatch
    edges: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class VisionLearner:
    """A student and its teacher as pure functions of theta_S and a task.

    Attributes:
        functional: the live module (see `Objective.learner`) and the subset S.
        objective: DINO, I-JEPA, or one's own.
        autocast: the dtype that matrix products run in, or None for the parameters' own.
        split: its split at the lower edge of S; or `Whole`, and the reason.
    """

    functional: FunctionalLearner
    objective: Objective
    autocast: torch.dtype | None = None
    split: Split | Whole = UNCUT

    def cut(self, batch: UnlabeledBatch) -> VisionLearner:
        """The learner cut where S allows it, tried on these crops; see `split_at_edge`."""
        return replace(self, split=self._split_for(batch))

    def _split_for(self, batch: UnlabeledBatch) -> Split | Whole:
        """The split; it holds if all that the learner takes from a picture goes by the edge.

        phi reaches the layers above in no other way.
        """
        call = self.objective.calls(batch, batch.views)["views"]
        method, *args = call
        with as_estimated(self.functional.module, self.autocast):
            split = split_at_edge(self.functional, method, *args)
            if isinstance(split, Whole):
                return split
            with torch.no_grad():
                edge = split.prefix(self.functional, method, *args)
                images, rest = _images(call), call[2:]
                seen, other = (
                    split.suffix(self.functional, self.functional.theta, edge, method, x, *rest)
                    for x in (images, 1 - images)
                )
        if not torch.equal(seen, other):
            return Whole("something of the picture passes by the edge")
        return split

    def observe(self, observed: ObservedViews) -> ObservedViews:
        """With the edges of the calls that see no designed view, if the learner is split."""
        if not isinstance(self.split, Split):
            return replace(observed, edges={})
        batch = observed.batch
        calls = self.objective.calls(batch, batch.views)
        with torch.no_grad(), as_estimated(self.functional.module, self.autocast):
            edges = {
                name: self.split.prefix(self.functional, *call)
                for name, call in calls.items()
                if name != "views"
            }
        return replace(observed, edges=edges)

    def task(self, views: Views, observed: ObservedViews) -> Task:
        """The task that these views make, with its graph to them.

        The teacher's parameters and its centre are constants; its targets keep the graph to the
        views that it sees. With a split, "views edge" carries phi, and "views" are the pictures as
        they are: above the edge nothing is taken from them but the number of patches.
        """
        batch = observed.batch
        with as_estimated(self.functional.module, self.autocast):
            targets, _ = self.objective.targets(self.functional.module, batch, views)
            edges = dict(observed.edges)
            if isinstance(self.split, Split):
                call = self.objective.calls(batch, views)["views"]
                edges["views"] = self.split.prefix(self.functional, *call)
        blocks = batch.blocks
        return {
            "views": batch.views if isinstance(self.split, Split) else views,
            "locals": batch.locals,
            "targets": targets,
            **({} if blocks is None else {"context": blocks.context, "blocks": blocks.targets}),
            **{_edge(name): edge for name, edge in edges.items()},
        }

    def outputs(self, theta: Params, task: Task) -> Tensor:
        """The outputs of the student's calls, one after another along the first dimension."""
        with as_estimated(self.functional.module, self.autocast):
            return torch.cat(
                [
                    self._output(theta, call, task.get(_edge(name)))
                    for name, call in self._calls(task).items()
                ]
            )

    def parts(self, outputs: Tensor, task: Task) -> Float[Tensor, " b"]:
        """The loss of each picture."""
        calls = self._calls(task)
        sizes = [len(_images(call)) for call in calls.values()]
        each = dict(zip(calls, outputs.split(sizes), strict=True))
        with autocast(outputs.device, self.autocast):
            return self.objective.parts(each, task["targets"], batch_of(task))

    def _calls(self, task: Task) -> Mapping[str, Call]:
        batch = batch_of(task)
        return self.objective.calls(batch, batch.views)

    def _output(self, theta: Params, call: Call, edge: Tensor | None) -> Tensor:
        if edge is None:
            return self.functional(theta, *call)
        assert isinstance(self.split, Split)
        return self.split.suffix(self.functional, theta, edge, *call)


def batch_of(task: Task) -> UnlabeledBatch:
    """The unlabeled batch that a task holds, with its designed views."""
    blocks = Blocks(task["context"], task["blocks"]) if "context" in task else None
    return UnlabeledBatch(task["views"], task["locals"], blocks)


def _images(call: Call) -> Tensor:
    """What a call of the learner is made on: its first argument after the method's name."""
    images = call[1]
    assert isinstance(images, Tensor)
    return images


def _edge(call: str) -> str:
    return f"{call} edge"
