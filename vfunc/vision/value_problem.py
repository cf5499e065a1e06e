"""The vision modality as a `ValueProblem`: learned views, any objective, dense feedback.

phi acts on the learner's input. Where the learner is cut at the lower edge of S, the task holds
what enters S (the edge) with its graph back through the blocks below, the view and the designer,
and so does what the teacher makes of the view: `Construction.pull` is then one plain vjp, fused
attention and all, and second-order transforms see the blocks of S alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from vfunc.learner import FunctionalLearner, mode
from vfunc.precision import autocast
from vfunc.problem import CompositeForm, Task, ValueProblem
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.split import Split, Whole, split_at_edge
from vfunc.trees import Params, Scalar
from vfunc.vision.data.batches import Blocks, UnlabeledBatch
from vfunc.vision.objectives.objective import Call, Objective

Views = Float[Tensor, "g b 3 h w"]


@dataclass(frozen=True)
class ObservedViews:
    """An unlabeled batch, and what of the learner's work on it no view can change.

    Attributes:
        batch: the crops.
        edges: what the blocks below S give for the calls that see no designed view, by call.
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
        split: where it is cut at the lower edge of S; None never cuts.
    """

    functional: FunctionalLearner
    objective: Objective
    autocast: torch.dtype | None = None
    split: Split | None = None

    def split_for(self, batch: UnlabeledBatch) -> Split | Whole:
        """Where S allows this learner to be cut, tried on these crops; see `split_at_edge`.

        And whether all that the learner takes from a picture goes through the edge: phi reaches
        the layers above by no other way.
        """
        method, *args = self.objective.calls(batch, batch.views)["views"]
        with self._as_estimated():
            split = split_at_edge(self.functional, method, *args)
            if isinstance(split, Whole):
                return split
            with torch.no_grad():
                edge = split.prefix(self.functional, method, *args)
                images, *rest = args
                seen, other = (
                    split.suffix(self.functional, self.functional.theta, edge, method, x, *rest)
                    for x in (images, 1 - images)  # type: ignore[operator]
                )
        if not torch.equal(seen, other):
            return Whole("something of the picture passes by the edge")
        return split

    def observe(self, observed: ObservedViews) -> ObservedViews:
        """With the edges of the calls that see no designed view, if the learner is split."""
        if self.split is None:
            return replace(observed, edges={})
        batch = observed.batch
        calls = self.objective.calls(batch, batch.views)
        with torch.no_grad(), self._as_estimated():
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
        with self._as_estimated():
            targets, _ = self.objective.targets(self.functional.module, batch, views)
            edges = dict(observed.edges)
            if self.split is not None:
                call = self.objective.calls(batch, views)["views"]
                edges["views"] = self.split.prefix(self.functional, *call)
        blocks = batch.blocks
        return {
            "views": views if self.split is None else batch.views,
            "locals": batch.locals,
            "targets": targets,
            **({} if blocks is None else {"context": blocks.context, "blocks": blocks.targets}),
            **{_edge(name): edge for name, edge in edges.items()},
        }

    def outputs(self, theta: Params, task: Task) -> Tensor:
        """The outputs of the student's calls, one after another along the first dimension."""
        with self._as_estimated():
            return torch.cat(
                [
                    self._output(theta, call, task.get(_edge(name)))
                    for name, call in self._calls(task).items()
                ]
            )

    def parts(self, outputs: Tensor, task: Task) -> Float[Tensor, " b"]:
        """The loss of each picture."""
        calls = self._calls(task)
        sizes = [call[1].shape[0] for call in calls.values()]  # type: ignore[attr-defined]
        each = dict(zip(calls, outputs.split(sizes), strict=True))
        with autocast(outputs.device, self.autocast):
            return self.objective.parts(each, task["targets"], batch_of(task))

    def _calls(self, task: Task) -> Mapping[str, Call]:
        batch = batch_of(task)
        return self.objective.calls(batch, batch.views)

    def _output(self, theta: Params, call: Call, edge: Tensor | None) -> Tensor:
        if edge is None:
            return self.functional(theta, *call)
        assert self.split is not None
        return self.split.suffix(self.functional, theta, edge, *call)

    @contextlib.contextmanager
    def _as_estimated(self) -> Iterator[None]:
        device = next(self.functional.module.parameters()).device
        with mode(self.functional.module, training=False), autocast(device, self.autocast):
            yield


def batch_of(task: Task) -> UnlabeledBatch:
    """The unlabeled batch that a task holds, with its designed views."""
    blocks = Blocks(task["context"], task["blocks"]) if "context" in task else None
    return UnlabeledBatch(task["views"], task["locals"], blocks)


def designed_views(designer: nn.Module, phi: Params, views: Views) -> Views:
    """c_phi of every view: the designer sees each alone."""
    view, _ = functional_call(designer, phi, (views.flatten(0, 1),))
    return view.unflatten(0, views.shape[:2])


def vision_problem(
    learner: VisionLearner,
    designer: nn.Module,
    batches: tuple[ObservedViews, ...],
    feedback: Callable[[Params], Scalar],
    rule: UpdateRule,
    state: OptimizerState,
    *,
    seed: int = 0,
) -> ValueProblem:
    """Ask how the designer's views should change, to lower the loss on `feedback`.

    Args:
        learner: student and teacher, the subset S, precision and split.
        designer: images (n, 3, h, w) -> (view, control); phi are its named parameters.
        batches: unlabeled batches.
        feedback: theta_S -> L_down on labelled pictures.
        rule: the learner's next optimizer step.
        state: its optimizer state.
        seed: for what an estimator draws.

    Returns:
        The problem. It has no linear form: the loss is not linear in a view.
    """

    def construct(phi: Params, observed: ObservedViews) -> Task:
        return learner.task(designed_views(designer, phi, observed.batch.views), observed)

    def parts(theta: Params, task: Task) -> Tensor:
        return learner.parts(learner.outputs(theta, task), task)

    return ValueProblem(
        construct,
        lambda theta, task: parts(theta, task).sum(),
        feedback,
        tuple(map(learner.observe, batches)),
        rule,
        state,
        composite=CompositeForm(
            learner.outputs, lambda outputs, task: learner.parts(outputs, task).sum()
        ),
        parts=parts,
        compute_dtype=learner.autocast,
        seed=seed,
        split="" if learner.split is None else learner.split.why,
    )


def _edge(call: str) -> str:
    return f"{call} edge"
