"""Simulates `torch.optim.ASGD`, one tensor at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc.simulate.automatic import AutomaticRule
from vfunc.simulate.pieces import held
from vfunc.simulate.rule import TensorState


@dataclass(frozen=True)
class ASGD(AutomaticRule):
    """`torch.optim.ASGD`: SGD whose step size falls by a rule of its own, and an average beside."""

    lr: float
    lambd: float = 1e-4
    alpha: float = 0.75
    t0: float = 1e6
    weight_decay: float = 0.0
    maximize: bool = False

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`: (1 - lambd eta) p - eta g; the step size of the next is made here."""
        g = -g if self.maximize else g
        g = g + self.weight_decay * p if self.weight_decay else g
        wide = torch.get_default_dtype() == torch.float64
        dtype = torch.float64 if wide else torch.float32  # as torch keeps its scalars
        eta = state.scalars.get("eta", torch.tensor(self.lr, dtype=dtype))
        mu = state.scalars.get("mu", torch.ones((), dtype=dtype))
        now = float(eta)
        after = torch.add(p * (1 - self.lambd * now), g, alpha=-now)
        (mean,) = held(state, g, "ax")
        mean = after if float(mu) == 1 else mean + (after - mean) * float(mu)
        t = state.step + 1
        scalars = {
            "eta": torch.tensor(
                self.lr / (1 + self.lambd * self.lr * t) ** self.alpha, dtype=eta.dtype
            ),
            "mu": torch.tensor(1 / max(1.0, t - self.t0), dtype=mu.dtype),
        }
        return after, TensorState(t, {"ax": mean}, scalars)
