"""Optimizer steps in plain numbers: for the core's simulation, and for the oracle beside it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from measures import generator, normal
from torch import Tensor

from vfunc.simulate import SGD, Adam, Clip, TensorState, UpdateRule


@dataclass(frozen=True)
class Optimizer:
    """What an optimizer step is made of, in plain numbers, for the core and for the oracle."""

    kind: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.99)
    eps: float = 1e-3
    max_norm: float | None = None
    outside: float = 0.0
    weight: float = 1.0
    accumulated: dict[str, Tensor] | None = None
    steps: int = 0
    buffers: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def rule(self) -> UpdateRule:
        """The package's own form of it."""
        if self.kind == "sgd":
            rule = SGD(self.lr, self.momentum, self.dampening, self.nesterov, self.weight_decay)
        else:
            rule = Adam(self.lr, self.betas, self.eps, self.weight_decay, self.kind == "adamw")
        clip = None if self.max_norm is None else Clip(self.max_norm, self.outside)
        return UpdateRule(rule, clip, self.accumulated, self.weight)

    def state(self) -> dict[str, TensorState]:
        """The package's own form of the state."""
        return {name: TensorState(self.steps, dict(b)) for name, b in self.buffers.items()}


PLAIN = Optimizer()

# Adam's epsilon and moments are of the gradient's size, so that the step is smooth over the
# distances that finite differences take; its behaviour at 1e-8 has tests of its own.
OPTIMIZERS: dict[str, Optimizer] = {
    "sgd": PLAIN,
    "sgd decay": Optimizer(weight_decay=0.2),
    "momentum": Optimizer(momentum=0.8, dampening=0.3, weight_decay=0.1, steps=3),
    "momentum fresh": Optimizer(momentum=0.7, dampening=0.4),
    "nesterov": Optimizer(momentum=0.6, nesterov=True, steps=2),
    "adam": Optimizer("adam", lr=0.03, eps=1e-2, weight_decay=0.1, steps=5),
    "adam fresh": Optimizer("adam", lr=0.03, eps=0.05),
    "adamw": Optimizer("adamw", lr=0.03, eps=1e-2, weight_decay=0.3, steps=2),
    "clip": Optimizer(max_norm=0.05),
    "clip adamw": Optimizer("adamw", lr=0.03, eps=1e-3, max_norm=0.04, outside=0.3, steps=3),
    "accumulate": Optimizer(momentum=0.5, weight=0.25, max_norm=0.06, steps=1),
}


def with_state(name: str, theta: dict[str, Tensor], seed: int) -> Optimizer:
    """The named optimizer with a random state after `steps` steps, shaped like theta."""
    optimizer = OPTIMIZERS[name]
    draw = generator(seed + 1)
    buffers = {}
    if optimizer.steps:
        for key, p in theta.items():
            first = 0.05 * normal(draw, *p.shape)
            if optimizer.kind == "sgd":
                buffers[key] = {"momentum_buffer": first}
            else:
                second = 0.002 + 0.01 * torch.rand(p.shape, generator=draw, dtype=torch.float64)
                buffers[key] = {"exp_avg": first, "exp_avg_sq": second}
    accumulated = None
    if optimizer.weight != 1.0:
        accumulated = {key: 0.1 * normal(draw, *p.shape) for key, p in theta.items()}
    return replace(optimizer, buffers=buffers, accumulated=accumulated)
