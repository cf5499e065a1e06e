"""Asks estimators about tasks on offer: phi is how much of each is mixed into the batch as it is.

M tasks are one construction with M parameters: what tasks change (soft targets of a text, the mask
of a view) is the batch's own plus, for each task, its share times what it would change. The value
at one share of 1 is that task's; the gradient at no share at all is what the estimator's direction
says of each task, from a single estimate. Of text the loss is linear in the share, of pictures not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.estimators import Estimator
from vfunc.problem import Task, ValueEstimate, ValueProblem
from vfunc.studies.score.rank_agreement import Array
from vfunc.trees import Params

Reading = Literal["value", "objective", "slope"]
SHARE = "share"


@dataclass(frozen=True)
class Offer:
    """A batch, and the tasks that are on offer on it.

    Attributes:
        task: the task of the text as it is, detached.
        moves: (M, ...) what each task changes of the entry that the loss is linear in.
    """

    task: Task
    moves: Tensor


def mixed(problem: ValueProblem, offer: Offer, moved: Tensor) -> Task:
    """The task of the text as it is with the entry moved that the loss is linear in."""
    assert problem.linear is not None
    entry = problem.linear.target
    return {**offer.task, entry: offer.task[entry] + moved}


def offering(
    problem: ValueProblem,
    offers: Sequence[Any],
    made: Callable[[ValueProblem, Any, Tensor], Task] = mixed,
) -> ValueProblem:
    """The problem whose phi, `{"share": (M,)}`, mixes tasks on offer into the batch as it is.

    Args:
        problem: gives the losses and the learner's step.
        offers: of the next batches, all with the same tasks; `moves` (M, ...) of each says what
            the tasks change.
        made: the task of a batch of which so much is changed; by default that of `Offer`s, for a
            problem that says what it is linear in.

    Raises:
        UserError: it does not say so.
    """
    if made is mixed and problem.linear is None:
        raise UserError("tasks are mixed where the loss is linear in them: give `linear`")

    def construct(phi: Params, offer: Any) -> Task:
        return made(problem, offer, torch.tensordot(phi[SHARE], offer.moves, dims=1))

    return replace(problem, construct=construct, batches=tuple(offers))


def no_share(problem: ValueProblem) -> Params:
    """The phi of the text as it is."""
    moves = problem.batches[0].moves
    return {SHARE: moves.new_zeros(len(moves))}


def slopes(estimates: Sequence[ValueEstimate]) -> Array:
    """(draws, M) what the estimators' directions say of each task, estimated at no share."""
    return np.stack([e.grad[SHARE].double().cpu().numpy() for e in estimates])


def at_no_share(
    estimator: Estimator, problem: ValueProblem, theta: Params, draws: int = 1
) -> list[ValueEstimate]:
    """Estimates at the text as it is, one for each seed of a direction that is drawn.

    Args:
        estimator: the estimator.
        problem: from `offering`.
        theta: the learner's parameters.
        draws: how many, with seeds of their own.
    """
    phi = no_share(problem)
    seeds = (problem.seed + k for k in range(draws))
    return [estimator(replace(problem, seed=seed), theta, phi) for seed in seeds]


def task_by_task(
    estimator: Estimator, problem: ValueProblem, theta: Params
) -> Mapping[Reading, Array]:
    """(1, M) value and objective of each task, less those of the text as it is.

    Args:
        estimator: asked M + 1 times.
        problem: from `offering`.
        theta: the learner's parameters.
    """
    nothing = no_share(problem)

    def asked(share: Tensor) -> tuple[float, float]:
        estimate = estimator(problem, theta, {SHARE: share})
        return float(estimate.value), float(estimate.objective)

    found: list[Any] = [asked(nothing[SHARE])]
    found += [asked(one) for one in torch.eye(len(nothing[SHARE])).to(nothing[SHARE])]
    less = np.array(found[1:]) - np.array(found[0])
    return {"value": less[None, :, 0], "objective": less[None, :, 1]}
