"""The vision modality as a `ValueProblem`: learned views, any objective, dense feedback."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from vfunc.problem import CompositeForm, KnownFeedback, Task, ValueProblem
from vfunc.processes import ALONE, Processes
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params, Scalar
from vfunc.vision.learner import ObservedViews, Views, VisionLearner


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
    notes: Mapping[str, float] | None = None,
    known: KnownFeedback | None = None,
    processes: Processes = ALONE,
) -> ValueProblem:
    """Ask how the designer's views should change, to lower the loss on `feedback`.

    Args:
        learner: student and teacher, the subset S, precision and split.
        designer: images (n, 3, h, w) -> (view, control); phi are its named parameters.
        batches: unlabeled batches.
        feedback: theta_S -> L_down on labelled pictures.
        rule: the learner's next optimizer step.
        state: the learner's optimizer state.
        seed: seed of what an estimator samples.
        notes: numbers about the feedback, for the log.
        known: L_down and g_down, where they have been computed before.
        processes: the processes whose batches these are a part of, as many pictures in each.

    Returns:
        The problem. It has no linear form: the loss is not linear in a view.
    """

    def construct(phi: Params, observed: ObservedViews) -> Task:
        return learner.task(designed_views(designer, phi, observed.batch.views), observed)

    def parts(theta: Params, task: Task) -> Tensor:
        return of_outputs(learner.outputs(theta, task), task)

    def of_outputs(outputs: Any, task: Task) -> Tensor:
        terms = learner.parts(outputs, task)
        return terms if processes.alone else terms / processes.size

    return ValueProblem(
        construct,
        lambda theta, task: parts(theta, task).sum(),
        feedback,
        tuple(map(learner.observe, batches)),
        rule,
        state,
        composite=CompositeForm(
            learner.outputs, lambda outputs, task: of_outputs(outputs, task).sum()
        ),
        parts=parts,
        compute_dtype=learner.autocast,
        seed=seed,
        notes=notes or {},
        split=learner.split.why,
        known=known,
        processes=processes,
    )
