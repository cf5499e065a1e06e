"""Deflation by a least-squares fit on flattened float64 vectors: slow, and plain."""

from __future__ import annotations

import torch
from torch import Tensor


def flat(vector: dict[str, Tensor], names: list[str]) -> Tensor:
    """One float64 vector, in the order of the names."""
    return torch.cat([vector[name].double().reshape(-1) for name in names])


def deflated(g: dict[str, Tensor], means: list[dict[str, Tensor]], beta: float) -> Tensor:
    """g - beta P g, P g the best fit of g by the means, by complete orthogonal decomposition."""
    names = list(g)
    own = flat(g, names)
    columns = [flat(mean, names) for mean in means]
    columns = [column / column.norm() for column in columns if column.norm() > 0]
    if not columns:
        return own
    matrix = torch.stack(columns, 1)
    fit = torch.linalg.lstsq(matrix, own[:, None], rcond=1e-6, driver="gelsy").solution
    return own - beta * (matrix @ fit)[:, 0]
