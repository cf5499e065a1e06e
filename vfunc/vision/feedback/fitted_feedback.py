"""L_down of a run's labelled sources: heads fitted on some pictures, measured on others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from vfunc.learner import FunctionalLearner
from vfunc.problem import InParts
from vfunc.processes import Processes
from vfunc.trees import Params, Scalar
from vfunc.vision.data.batches import LabelledBatch
from vfunc.vision.feedback.dense_feedback import bank_loss, feedback_loss
from vfunc.vision.feedback.heads import HeadOptions, fit_heads

Bank = tuple[Callable[[], LabelledBatch], ...]
"""Labelled pictures of a source, more than are taken at once: what reads each batch of them."""

Source = tuple[Mapping[str, int], Mapping[str, float], LabelledBatch, LabelledBatch | Bank]
"""Classes and weights by task, the pictures that heads are fitted on, those that are measured."""

Precision = Callable[[], AbstractContextManager[Any]]
"""Makes the context of a run's mixed precision."""


def fitted_feedback(
    functional: FunctionalLearner,
    sources: Sequence[Source],
    options: HeadOptions,
    *,
    normalise: bool,
    processes: Processes,
    precision: Precision,
) -> Callable[[Params], Scalar]:
    """theta_S -> L_down, the sum over the sources, the heads fitted at theta_t.

    A source of which nothing is asked, or with weight 0 alone, has no part in it.

    Args:
        functional: the learner.
        sources: see `Source`.
        options: of the heads' fit.
        normalise: whether each task's loss is divided by its gradient's norm.
        processes: see `vfunc.vision.feedback.dense_feedback.dense_losses`.
        precision: of the fit and of the loss.

    Returns:
        The loss, `InParts` where what is measured is a bank.
    """
    at = functional.theta if normalise else None
    losses = []
    for classes, weights, fit, batch in sources:
        if not any(weights.values()):
            continue
        with precision():
            heads = fit_heads(functional.module, fit, tuple(weights), classes, options)
            losses.append(
                feedback_loss(functional, heads, batch, weights, at, processes)
                if isinstance(batch, LabelledBatch)
                else bank_loss(functional, heads, batch, weights, at, processes)
            )
    if all(isinstance(one, InParts) for one in losses):
        parts = (part for one in losses for part in one.parts)
        return InParts(tuple(_summed((part,), precision) for part in parts))
    return _summed(losses, precision)


def _summed(
    losses: Sequence[Callable[[Params], Scalar]], precision: Precision
) -> Callable[[Params], Scalar]:
    """The sum of the losses, in the run's precision."""

    def loss(theta: Params) -> Scalar:
        with precision():
            terms = [one(theta) for one in losses]
        return sum(terms[1:], terms[0])

    return loss
