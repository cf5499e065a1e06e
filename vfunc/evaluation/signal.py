"""Tells what g_down sees: whether it agrees with itself, with the stream, and on known mistakes.

No one number says whether a value is of use. Two halves of the feedback can agree to .99 in a
direction that the stream teaches anyway, in which mistaken tokens are worth as much as right ones;
only where mistakes are known can it be seen directly.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool
from scipy import stats
from torch import Tensor

from vfunc import trees
from vfunc.estimators.deflation import deflate
from vfunc.estimators.parts import tangents_of_parts
from vfunc.problem import Task, ValueProblem
from vfunc.trees import Params


@dataclass(frozen=True)
class KnownMistakes:
    """One batch taken as it is, with the parts of its loss that are known to be mistaken.

    Attributes:
        problem: the value problem of the batch.
        task: the task that leaves the text as it is.
        counted: which of the loss's parts count.
        wrong: which of them are known to be mistaken.
    """

    problem: ValueProblem
    task: Task
    counted: Bool[Tensor, "B T"]
    wrong: Bool[Tensor, "B T"]


@dataclass(frozen=True)
class Scores:
    """Minus the value of each part along one direction: of mistaken parts, and of the others.

    Attributes:
        wrong: of parts that are known to be mistaken.
        right: of the others.
    """

    wrong: tuple[float, ...]
    right: tuple[float, ...]

    def __add__(self, other: Scores) -> Scores:
        return Scores(self.wrong + other.wrong, self.right + other.right)

    @property
    def area(self) -> float | None:
        """P(a mistaken part scores above another), ties by half; None where there is one kind."""
        n, m = len(self.wrong), len(self.right)
        if not n or not m:
            return None
        ranks = stats.rankdata([*self.wrong, *self.right])
        return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * m))


def scores_along(found: KnownMistakes, theta: Params, w: Params) -> Scores:
    """Minus <w, grad of each part>: high where a step on the part raises L_down.

    Args:
        found: the batch.
        theta: the learner's parameters.
        w: the direction; its size does not matter to the order.

    Raises:
        UserError: the learner has kernels without a forward mode.
    """
    values = tangents_of_parts(found.problem, theta, found.task, w)
    picked = ((-values[found.counted & which]).tolist() for which in (found.wrong, ~found.wrong))
    return Scores(*map(tuple, picked))


def directions(g_down: Params, mean: Params) -> dict[str, Params]:
    """The directions of dot and of deflated by the stream's mean gradient, both without eta."""
    return {"dot": g_down, "deflated": deflate(g_down, (mean,), 1.0).rest}


def cosine_of(a: Params, b: Params) -> float | None:
    """The cosine of two gradients; None where one is zero."""
    return None if trees.is_zero(a) or trees.is_zero(b) else float(trees.cosine(a, b))
