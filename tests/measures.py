"""Random numbers, norms and slopes, apart from the package's own arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def generator(seed: int) -> torch.Generator:
    """Random numbers of a case."""
    return torch.Generator().manual_seed(seed)


def normal(draw: torch.Generator, *shape: int) -> Tensor:
    """Standard normal, float64."""
    return torch.randn(shape, generator=draw, dtype=torch.float64)


def direction(like: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """A random direction of norm 1."""
    draw = generator(seed)
    raw = {name: normal(draw, *x.shape) for name, x in like.items()}
    size = math.sqrt(sum(float((x * x).sum()) for x in raw.values()))
    return {name: x / size for name, x in raw.items()}


def inner(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """<a, b>, apart from the package's own."""
    return math.fsum(float((a[name] * b[name]).sum()) for name in a)


def size(a: dict[str, Tensor]) -> float:
    """|a|."""
    return math.sqrt(inner(a, a))


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """|a - b| / |b|, zero where both are."""
    assert a.keys() == b.keys()
    gap = size({name: a[name] - b[name] for name in a})
    return gap / size(b) if size(b) else gap


def moved(phi: dict[str, Tensor], step: float, along: dict[str, Tensor]) -> dict[str, Tensor]:
    """phi + step * along."""
    return {name: x + step * along[name] for name, x in phi.items()}


def slope(function: Callable[[float], float], step: float = 2e-3) -> float:
    """function'(0) by central differences, extrapolated once (Richardson): error O(step^4)."""

    def central(h: float) -> float:
        return (function(h) - function(-h)) / (2 * h)

    return (4 * central(step / 2) - central(step)) / 3
