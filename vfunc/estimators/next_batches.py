"""The mean gradient of the next batches' tasks at one theta: what the stream teaches right now."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem import ValueProblem, construct_task, pretrain_gradient
from vfunc.trees import Params


@dataclass(frozen=True, repr=False)
class NextBatches:
    """Gradients of the tasks of a problem's first batches, on the way to their mean.

    The first batch's own comes last: an estimate builds that task anyway, and may need the gradient
    for more than this. So no two batches' graphs are there at once.

    Attributes:
        count: how many batches.
        later: the sum of the gradients of those after the first; None where there are none.
        known: their mean, where it is held from before, and takes no batch.
    """

    count: int = 0
    later: Params | None = None
    known: Params | None = None

    def mean(self, first: Callable[[], Params]) -> tuple[Params]:
        """The one mean, in float32 at least.

        Args:
            first: the gradient of the first batch's task, if it is asked for.
        """
        if self.known is not None:
            return (self.known,)
        total = _wide(first())
        for name, x in (self.later or {}).items():
            total[name].add_(x)
        return ({name: x.div_(self.count) for name, x in total.items()},)


def next_batches(problem: ValueProblem, theta: Params, phi: Params, count: int) -> NextBatches:
    """The gradients at theta of the tasks that phi makes of the batches after the first.

    Args:
        problem: holds the batches.
        theta: the learner's parameters.
        phi: the designer's; the tasks are constants from here on.
        count: how many batches the mean is of, the first among them.

    Raises:
        UserError: the problem has fewer batches.
    """
    if len(problem.batches) < count:
        raise UserError(
            f"mean_batches {count} needs as many unlabeled batches; "
            f"the problem has {len(problem.batches)}"
        )
    later: Params | None = None
    for batch in problem.batches[1:count]:
        g = pretrain_gradient(problem, theta, construct_task(problem, phi, batch).task)
        if later is None:
            later = _wide(g)
        else:
            for name, x in g.items():
                later[name].add_(x)
        del g
    return NextBatches(count, later)


def mean_of_batches(problem: ValueProblem, theta: Params, phi: Params, count: int) -> NextBatches:
    """The same with the first batch's, as a mean that is held.

    Args:
        problem: see `next_batches`, as for the others.
        theta: the learner's parameters.
        phi: the designer's.
        count: how many batches.
    """
    batches = next_batches(problem, theta, phi, count)
    task = construct_task(problem, phi, problem.batches[0]).task
    (mean,) = batches.mean(lambda: pretrain_gradient(problem, theta, task))
    return NextBatches(known=trees.detach(mean))


def _wide(g: Params) -> Params:
    """A copy to add to."""
    return {
        name: x.to(
            torch.promote_types(x.dtype, torch.float32),
            copy=True,
            memory_format=torch.contiguous_format,
        )
        for name, x in g.items()
    }
