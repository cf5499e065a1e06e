"""Simulates `torch.optim.Adafactor`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfunc.simulate.automatic import AutomaticRule
from vfunc.simulate.pieces import held, lerp
from vfunc.simulate.rule import TensorState


@dataclass(frozen=True)
class Adafactor(AutomaticRule):
    """`torch.optim.Adafactor`: second moments by rows and columns, steps relative to |p|.

    Attributes:
        lr: the most that the relative step size rho_t = min(lr, 1 / sqrt(t)) can be.
        beta2_decay: exponent of the averages' rate, t^beta2_decay.
        eps: (least root of a second moment; None is the rounding of p's dtype, least |p|).
        d: root mean square above which a step is scaled down.
        weight_decay: decoupled, in units of lr.
    """

    lr: float = 1e-2
    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: float = 1.0
    weight_decay: float = 0.0
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`."""
        g = -g if self.maximize else g
        t = state.step + 1
        eps = torch.finfo(p.dtype).eps if self.eps[0] is None else self.eps[0]
        size = p.norm(2) / p.numel() ** 0.5
        rate = size.clamp(min=self.eps[1]) * min(self.lr, 1 / t**0.5)
        update, buffers = self._preconditioned(state, g, t**self.beta2_decay, eps)
        length = update.norm(2) / (update.numel() ** 0.5 * self.d)
        decayed = p * (1 - self.lr * self.weight_decay)
        return decayed - rate / length.clamp(min=1.0) * update, TensorState(t, buffers)

    def _preconditioned(
        self, state: TensorState, g: Tensor, weight: float, eps: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(g / sqrt(v), the averages v is made of)."""
        if g.dim() <= 1:
            (v,) = held(state, g, "variance")
            update = _Normalised.apply(g, v, weight, eps)
            return update, {"variance": lerp(v, g * g, weight)}
        row, column = (
            self._average(state, g, key, dim, weight)
            for key, dim in (("row_var", -1), ("col_var", -2))
        )
        v = row @ column / row.mean(dim=-2, keepdim=True).clamp(min=eps)
        return v.clamp(min=eps * eps).rsqrt() * g, {"row_var": row, "col_var": column}

    def _average(self, state: TensorState, g: Tensor, key: str, dim: int, weight: float) -> Tensor:
        squares = torch.linalg.vector_norm(g, dim=dim, keepdim=True).square() / g.size(dim)
        before = state.buffers.get(key)
        return lerp(torch.zeros_like(squares) if before is None else before, squares, weight)


class _Normalised(torch.autograd.Function):
    """g / sqrt(v), v = (1 - w) v0 + w g^2, at least eps^2.

    Its derivative in g is (1 - w) v0 / v^(3/2): at w = 1, the first step, that is zero, the
    difference of two numbers near 1 / |g| if it is left to automatic differentiation.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, v0: Tensor, weight: float, eps: float) -> Tensor:
        """See the class."""
        v = lerp(v0, g * g, weight)
        inverse_root = v.clamp(min=eps * eps).rsqrt()
        ctx.save_for_backward(g, v0, inverse_root, v >= eps * eps)
        ctx.weight = weight
        return inverse_root * g

    @staticmethod
    def backward(ctx: Any, *bars: Tensor) -> tuple[Tensor, Tensor, None, None]:
        """Cotangents of g and v0."""
        g, v0, inverse_root, above = ctx.saved_tensors
        share = 1 - ctx.weight
        by_g = torch.where(above, share * v0 * inverse_root**3, inverse_root)
        by_v0 = torch.where(above, -share * g * inverse_root**3 / 2, 0.0)
        return bars[0] * by_g, bars[0] * by_v0, None, None
