"""Simulates gradient-norm clipping."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc import trees
from vfunc.trees import Params, Scalar


@dataclass(frozen=True)
class Clip:
    """Full-model gradient-norm clipping, as `torch.nn.utils.clip_grad_norm_`.

    Attributes:
        max_norm: the norm that the gradient is scaled down to; an `UpdateRule` takes one above 0.
        outside: the gradient's norm over parameters outside S, held constant; None where S is
            all and nothing is held.
    """

    max_norm: float
    outside: float | None = None

    def coefficient(self, g: Params) -> tuple[Scalar, Scalar]:
        """(the factor min(1, max_norm / (n + 1e-6)), n), n the norm of the whole gradient."""
        total = (trees.dot(g, g) + (self.outside or 0.0) ** 2).sqrt()
        return (self.max_norm / (total + 1e-6)).clamp(max=1.0), total

    def vjp(self, g: Params, clipped_bar: Params) -> Params:
        """Cotangent of g from that of the clipped gradient."""
        factor, total = self.coefficient(g)
        if float(factor) >= 1.0:
            return clipped_bar
        here = {name: g[name] for name in clipped_bar}  # of the rest, accumulated, the norm alone
        slope = factor / (total + 1e-6) / total * trees.dot(here, clipped_bar)
        return {name: factor * x - slope * g[name] for name, x in clipped_bar.items()}
