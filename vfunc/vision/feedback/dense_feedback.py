"""Computes L_down of dense feedback: losses of constant heads, as functions of theta_S."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from vfunc.errors import UserError
from vfunc.feedback import FeedbackLoss, weighted_feedback
from vfunc.learner import FunctionalLearner, mode
from vfunc.problem import InParts
from vfunc.processes import ALONE, Processes
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed
from vfunc.vision.data.batches import LabelledBatch
from vfunc.vision.feedback.head_losses import Heads, known, loss_sums


@typed
def dense_losses(
    functional: FunctionalLearner,
    heads: Heads,
    batch: LabelledBatch,
    processes: Processes = ALONE,
) -> dict[str, FeedbackLoss]:
    """Each task's loss on the meta batch, one forward of the learner a call.

    A task's loss is its mean over all pixels (or pictures) of the batch that are labelled for it:
    cross-entropy in nats, absolute error in metres. In eval mode.

    Args:
        functional: the learner, `dense` among its methods; what is outside S is constant.
        heads: the heads, constants.
        batch: the meta batch; the labels stay in the losses.
        processes: the processes whose meta batch this is a part of: the means are over all of it.

    Returns:
        theta_S -> L_j by task, for the heads' tasks that the batch has labels for.

    Raises:
        UserError: it has labels for none.
    """
    counts = _counts(heads, batch, processes)
    return {task: _losses(functional, heads, batch, {task: 1.0}, counts) for task in counts}


@typed
def feedback_loss(
    functional: FunctionalLearner,
    heads: Heads,
    batch: LabelledBatch,
    weights: Mapping[str, float | int],
    normalise_at: Params | None = None,
    processes: Processes = ALONE,
) -> FeedbackLoss:
    """L_down = sum_j alpha_j L_j of `dense_losses`; one forward of the learner for all tasks.

    Weights of tasks that the batch has no labels for are left out.

    Args:
        functional: the learner.
        heads: the heads, constants.
        batch: the meta batch.
        weights: alpha_j, by the heads' tasks.
        normalise_at: theta_t, to divide each L_j by its gradient's norm there (one forward a
            task; see `weighted_feedback`); None does not.
        processes: see `dense_losses`.

    Returns:
        theta_S -> L_down.

    Raises:
        UserError: the batch has no labels for any task, or the weights are of other tasks than
            the heads, not finite, or all zero.
    """
    _require_tasks(weights, heads)
    counts = _counts(heads, batch, processes)
    weights = {task: float(weights[task]) for task in counts}
    losses = dense_losses(functional, _only(heads, *counts), batch, processes)
    # in both cases: it refuses what cannot be weighted
    separate = weighted_feedback(losses, weights, normalise_at=normalise_at, processes=processes)
    if normalise_at is not None:
        return separate
    return _losses(functional, heads, batch, weights, counts)


@typed
def bank_loss(
    functional: FunctionalLearner,
    heads: Heads,
    parts: Sequence[Callable[[], LabelledBatch]],
    weights: Mapping[str, float | int],
    normalise_at: Params | None = None,
    processes: Processes = ALONE,
) -> InParts:
    """The `feedback_loss` of several batches together, in as many parts.

    Pictures are read when their part is asked for, and once before to count their labels: no more
    than a batch of them is there at a time.

    Args:
        functional: the learner.
        heads: the heads, constants.
        parts: each reads a batch; this process's share.
        weights: alpha_j, by the heads' tasks.
        normalise_at: see `feedback_loss`.
        processes: see `dense_losses`.

    Returns:
        theta_S -> L_down; every L_j is a mean over all that is labelled for it in all batches.

    Raises:
        UserError: as `feedback_loss`.
    """
    _require_tasks(weights, heads)
    own = [
        [int(known(batch, task).sum()) for task in heads.by_task]
        for batch in (read() for read in parts)
    ]
    totals = processes.totals(*(sum(column) for column in zip(*own, strict=True)))
    counts = {t: float(n) for t, n in zip(heads.by_task, totals, strict=True) if n}
    if not counts:
        raise UserError(
            f"all pictures of the feedback bank are void for {' and '.join(heads.by_task)}: give "
            "other ones"
        )
    used = {task: float(weights[task]) for task in counts}

    def of(chosen: Mapping[str, float]) -> InParts:
        def part(read: Callable[[], LabelledBatch]) -> Callable[[Params], Scalar]:
            return lambda theta: _losses(functional, heads, read(), chosen, counts)(theta)

        return InParts(tuple(part(read) for read in parts))

    separate = weighted_feedback(
        {task: of({task: 1.0}) for task in counts},
        used,
        normalise_at=normalise_at,
        processes=processes,
    )
    if normalise_at is None:
        return of(used)
    return separate if isinstance(separate, InParts) else InParts((separate,))


def _losses(
    functional: FunctionalLearner,
    heads: Heads,
    batch: LabelledBatch,
    weights: Mapping[str, float],
    counts: Mapping[str, float],
) -> Callable[[Params], Scalar]:
    heads = _only(heads, *(task for task, w in weights.items() if w))

    def loss(theta: Params) -> Scalar:
        with mode(functional.module, training=False):
            dense = functional(theta, "dense", batch.images, heads.layers)
        sums = loss_sums(heads, dense, batch)
        terms = [weights[task] * (s.total.sum() / counts[task]) for task, s in sums.items()]
        return torch.stack(terms).sum()

    return loss


def _require_tasks(weights: Mapping[str, float | int], heads: Heads) -> None:
    if set(weights) != set(heads.by_task):
        raise UserError(
            f"the feedback weights are for {', '.join(weights)}; "
            f"the heads are for {', '.join(heads.by_task)}"
        )


def _only(heads: Heads, *tasks: str) -> Heads:
    return Heads(heads.layers, {task: heads.by_task[task] for task in tasks})


def _counts(heads: Heads, batch: LabelledBatch, processes: Processes) -> dict[str, float]:
    """Labels of the meta batch by task, those of other processes too, where there are any."""
    own = (int(known(batch, task).sum()) for task in heads.by_task)
    totals = zip(heads.by_task, processes.totals(*own), strict=True)
    counts = {task: float(total) for task, total in totals if total}
    if not counts:
        raise UserError(
            f"all {len(batch)} pictures of the feedback batch are void for "
            f"{' and '.join(heads.by_task)}: give more of them, or other ones"
        )
    return counts
