"""How far a Newton step of the proximal problem goes along its direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.pullback import GRADIENT, Passes
from vfunc.trees import Params

ARMIJO_C1 = 0.25
"""The constant c1 of the sufficient decrease condition, f(x + a p) <= f(x) + c1 a <grad f(x), p>.

(Armijo, 1966; Nocedal and Wright, 2006, equation 3.4.) Larger than the usual 1e-4: a Newton step
near the optimum keeps a half of what its slope promises; one that overshoots the lowest point on
its line by more than half its way, as Gauss-Newton's can again and again, less.
"""

HALVINGS = 30
"""Step lengths that are tried, at most."""


@dataclass(frozen=True)
class Searched:
    """Where a line search ended.

    Attributes:
        x: the point.
        gradient: the objective's gradient there, where the search has computed it.
        measurable: whether the objective's own differences could be told from its rounding.
        passes: learner passes spent.
    """

    x: Params
    gradient: Params | None
    measurable: bool
    passes: Passes


def search(
    objective: Callable[[Params], float],
    gradient: Callable[[Params], Params],
    x: Params,
    g: Params,
    direction: Params,
) -> Searched:
    """Backtracking by the objective's values; by its slopes where those are lost in rounding.

    Args:
        objective: a forward pass of the learner.
        gradient: the objective's gradient at the point.
        x: the point.
        g: the gradient there.
        direction: of descent; the full step is the first one tried.
    """
    slope = float(trees.dot(g, direction))
    here = objective(x)
    rounding = 8 * max(torch.finfo(entry.dtype).eps for entry in x.values()) * abs(here)
    if -slope > rounding:
        there, tried = _by_values(objective, x, direction, slope, here, rounding)
        return Searched(there, None, True, Passes(forwards=1 + tried))
    there, known = _by_slopes(gradient, x, direction, slope)
    return Searched(there, known, False, Passes(forwards=1) + GRADIENT)


def _by_values(
    objective: Callable[[Params], float],
    x: Params,
    direction: Params,
    slope: float,
    here: float,
    rounding: float,
) -> tuple[Params, int]:
    """Halve the step until the objective falls by `ARMIJO_C1` of what its slope promises.

    Returns the point and the evaluations spent; the point is x where no length will do.
    """
    length = 1.0
    for tried in range(1, HALVINGS + 1):
        there = trees.axpy(length, direction, x)
        if objective(there) <= here + ARMIJO_C1 * length * slope + rounding:
            return there, tried
        length /= 2
    return x, HALVINGS


def _by_slopes(
    gradient: Callable[[Params], Params], x: Params, direction: Params, slope: float
) -> tuple[Params, Params | None]:
    """The full step if it halves the slope along it, else the zero of the slope by its secant.

    Differences of the objective drown in its rounding at a gradient near the root of the
    round-off, and slopes do not (Hager and Zhang, 2005, section 3). Returns the point, and the
    gradient there if it is known.
    """
    there = trees.axpy(1.0, direction, x)
    g = gradient(there)
    after = float(trees.dot(g, direction))
    if abs(after) <= 0.5 * abs(slope):
        return there, g
    length = slope / (slope - after) if after > slope else 2.0
    return trees.axpy(min(max(length, 0.1), 2.0), direction, x), None
