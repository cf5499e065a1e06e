"""Simulates `torch.optim.NAdam`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.pieces import Seen, cotangents, held, inverse, kept, lerp
from vfunc.simulate.rule import Buffers, TensorState


@dataclass(frozen=True)
class NAdam:
    """`torch.optim.NAdam`: Adam with Nesterov's momentum, whose rate follows a schedule."""

    lr: float
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.0
    momentum_decay: float = 4e-3
    decoupled: bool = False
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: p - lr (a g + b m) / (sqrt(v / c2) + eps)."""
        seen = self._seen
        g = seen(p, g)
        a, b, product = self._weights(state)
        m, v, root = self._moments(state, g)
        denominator = root + self.eps
        after = torch.addcdiv(seen.decay * p, g, denominator, value=-self.lr * a)
        after = torch.addcdiv(after, m, denominator, value=-self.lr * b)
        buffers = {"exp_avg": m, "exp_avg_sq": v}
        return after, TensorState(state.step + 1, buffers, {"mu_product": product})

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`; as Adam's, with m's share (1 - b1) of g and b1 of m0 in its place."""
        seen = self._seen
        g = seen(p, g)
        b1, b2 = self.betas
        c2 = 1 - b2 ** (state.step + 1)
        a, b, _ = self._weights(state)
        m, _, root = self._moments(state, g)
        m0, v0 = held(state, g, "exp_avg", "exp_avg_sq")
        by_g, by_m0 = a + b * (1 - b1), b * b1
        inverse_root, denominator = inverse(root), root + self.eps
        m_bar, v_bar = cotangents(buffers_bar, p_bar, "exp_avg", "exp_avg_sq")
        u_bar = -self.lr * p_bar
        numerator = (
            by_g * self.eps + (by_g * b2 * v0 - by_m0 * (1 - b2) * m0 * g) * inverse_root / c2
        )
        u_by_v = -(a * g + b * m) * inverse_root / (2 * c2 * denominator**2)
        g_bar = u_bar * numerator / denominator**2 + (1 - b1) * m_bar + 2 * (1 - b2) * g * v_bar
        before = {
            "exp_avg": b1 * m_bar + by_m0 * u_bar / denominator,
            "exp_avg_sq": b2 * (v_bar + u_bar * u_by_v),
        }
        p_before, g_bar = seen.pull(p_bar, g_bar)
        return p_before, kept(state, before), g_bar

    @property
    def _seen(self) -> Seen:
        return Seen.of(self.maximize, self.lr, self.weight_decay, self.decoupled)

    def _weights(self, state: TensorState) -> tuple[float, float, Tensor]:
        """(the weights of g and of m, the product of the momenta so far)."""
        t, decay, b1 = state.step + 1, self.momentum_decay, self.betas[0]
        mu = b1 * (1 - 0.5 * 0.96 ** (t * decay))
        mu_next = b1 * (1 - 0.5 * 0.96 ** ((t + 1) * decay))
        before = state.scalars.get("mu_product")
        if before is None:  # torch keeps it in the default precision, but for a coarse one
            wide = torch.get_default_dtype() == torch.float64
            before = torch.ones((), dtype=torch.float64 if wide else torch.float32)
        product = before * mu
        value = float(product)
        return (1 - mu) / (1 - value), mu_next / (1 - value * mu_next), product

    def _moments(self, state: TensorState, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        b1, b2 = self.betas
        m0, v0 = held(state, g, "exp_avg", "exp_avg_sq")
        v = torch.addcmul(b2 * v0, g, g, value=1 - b2)
        return lerp(m0, g, 1 - b1), v, (v / (1 - b2 ** (state.step + 1))).sqrt()
