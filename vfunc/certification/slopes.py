"""Measures directional derivatives by central differences, and estimates their error.

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
"""Columns of Ridders' tableau: higher orders only amplify rounding."""

SAFETY = 5.0
"""Safety factor on the differences' estimated error: a larger gap is the gradient's error."""


@dataclass(frozen=True)
class Slope:
    """A derivative and its estimated error.

    Attributes:
        value: the derivative, shaped like the function's value.
        error: estimated error in the Euclidean norm; infinite where no entry converged.
        evaluations: number of the function's evaluations.
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
    """The function's derivative at 0.

    Args:
        function: step -> a tensor of any shape.
        enough: estimated error at which to stop.
        first: largest step.
        levels: largest number of steps, each half the one before.
        unit: unit round-off of the function's dtype.
        measure_noise: whether to measure the function's rounding from seven near points
            (Hamming's difference table) rather than to take `unit` times its size.

    Returns:
        The derivative of lowest estimated error.
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
