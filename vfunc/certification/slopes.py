"""Directional derivatives by central differences, with an estimate of their own error.

Ridders' scheme (1982; Numerical Recipes, section 5.7): central differences at halving steps,
extrapolated to step zero (Richardson). The error of each entry of the tableau is taken as its
distance to the entries of one order less that it is made from, which overstates it where the
function is smooth; a verdict that rests on it is therefore careful.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

ORDERS = 4
"""Columns of the tableau: higher orders amplify rounding and win nothing more."""

SAFETY = 5.0
"""A gap of so many estimated errors of the finite differences is no error of theirs."""


@dataclass(frozen=True)
class Slope:
    """A derivative, and how far it can be trusted.

    Attributes:
        value: the derivative, shaped like the function's value.
        error: estimate of its error, in the Euclidean norm; infinite where nothing settled.
        evaluations: of the function.
    """

    value: Tensor
    error: float
    evaluations: int


def slope(
    function: Callable[[float], Tensor],
    *,
    enough: float = 0.0,
    first: float = 0.1,
    levels: int = 10,
    unit: float = torch.finfo(torch.float64).eps,
    measure_noise: bool = False,
) -> Slope:
    """function'(0).

    Args:
        function: of a step; a tensor, of any shape.
        enough: stop as soon as the error is estimated to be below this.
        first: the largest step.
        levels: how often it may be halved.
        unit: the round-off of what the function is computed in.
        measure_noise: whether to measure the function's rounding from seven near points
            (Hamming's difference table) rather than to take `unit` times its size.

    Returns:
        The derivative where its error is estimated lowest.
    """
    best = Slope(torch.zeros((), dtype=torch.float64), math.inf, 0)
    noise, evaluations = 0.0, 0
    if measure_noise:
        noise, evaluations = _noise(function, first / 100), 7
    above: list[Tensor] = []
    for level in range(levels):
        step = first / 2**level
        plus, minus = function(step).double(), function(-step).double()
        evaluations += 2
        noise = max(noise, unit * float(torch.linalg.vector_norm(plus)))
        row = [(plus - minus) / (2 * step)]
        for order, older in enumerate(above[:ORDERS], 1):
            finer = row[-1]
            row.append(finer + (finer - older) / (4**order - 1))
            error = max(_size(row[-1] - finer), _size(row[-1] - older)) + 2 * noise / step
            if error < best.error:  # never where it is not finite
                best = Slope(row[-1], error, evaluations)
        above = row
        if best.error <= enough:
            break
    return Slope(best.value, best.error, evaluations)


def _size(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))


def _noise(function: Callable[[float], Tensor], spacing: float) -> float:
    """Standard deviation of rounding: third differences of seven near points, over sqrt(20)."""
    points = torch.stack([function(k * spacing).double().reshape(-1) for k in range(-3, 4)])
    third = points.diff(n=3, dim=0)
    return float((third.pow(2).mean(0).sum() / 20).sqrt())
