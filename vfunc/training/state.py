"""State of one arm's training: live modules and optimizers, and plain counters beside them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from vfunc.learner import FunctionalLearner, functional
from vfunc.processes import Processes
from vfunc.sharding import ShardedLearner, spread
from vfunc.training.options.optimizer_options import WITH_BETAS, OptimizerName, OptimizerOptions
from vfunc.trees import Params, Scalar


@dataclass(frozen=True)
class Counters:
    """How far an arm has come.

    Attributes:
        step: optimizer steps taken.
        micro_batch: micro-batches taken; the stream's position.
        units: tokens (images) seen.
        seconds: training time, without evaluation and saving.
        updates: designer updates made; the feedback's position.
        outside_norm: the last step's gradient norm outside S, for the simulated clipping.
        followed: step, units and seconds when evaluation and probe were last seen to.
        probed: whether the one-step probe has been made.
    """

    step: int = 0
    micro_batch: int = 0
    units: int = 0
    seconds: float = 0.0
    updates: int = 0
    outside_norm: float = 0.0
    followed: tuple[int, int, float] = (0, 0, 0.0)
    probed: bool = False


@dataclass(frozen=True)
class HeldFeedback:
    """g_down between two times that it is computed (`--feedback-every`).

    Attributes:
        updates: designer updates made before it was computed.
        loss: L_down then.
        gradient: g_down then.
    """

    updates: int
    loss: Scalar
    gradient: Params


@dataclass(frozen=True)
class HeldMean:
    """The stream's mean gradient between two times that it is computed (`--mean-bank`).

    Attributes:
        updates: designer updates made before it was computed.
        gradient: the mean gradient of the text as it is, then.
    """

    updates: int
    gradient: Params


@dataclass(frozen=True)
class RunningMeans:
    """Running means of the gradients that the learner has stepped on, before clipping.

    Without bias: after t steps of decay d a gradient that is k steps old has the weight
    (1 - d) d^k / (1 - d^t). The tensors are never written to, so that a problem may hold them.

    Attributes:
        decays: the decay of each.
        steps: gradients taken.
        means: by name, over S, in float32 at least; none before the first step.
    """

    decays: tuple[float, ...]
    steps: int = 0
    means: tuple[Params, ...] = ()

    def after(self, live: Mapping[str, Tensor]) -> RunningMeans:
        """The means with one more gradient.

        Args:
            live: the learner's parameters in S, whose `.grad` is of all processes; where it is
                None the gradient is zero.
        """
        steps = self.steps + 1
        found = tuple(
            {
                name: _towards(
                    self.means[i][name] if self.means else None, p, (1 - decay) / (1 - decay**steps)
                )
                for name, p in live.items()
            }
            for i, decay in enumerate(self.decays)
        )
        return RunningMeans(self.decays, steps, found)


def _towards(mean: Tensor | None, p: Tensor, weight: float) -> Tensor:
    g = torch.zeros_like(p) if p.grad is None else p.grad
    g = g.detach().to(torch.promote_types(g.dtype, torch.float32))
    return g.clone() if mean is None else torch.lerp(mean, g, weight)


@dataclass(frozen=True)
class DirectState:
    """Where an arm that TRL trains is among its trainings.

    Attributes:
        phase: number of the training that has begun.
        reference: the trained parameters that it began with, where a divergence is from them.
    """

    phase: int
    reference: Params | None


@dataclass
class ArmState:
    """What training an arm changes. Live torch objects, changed in place; counters are replaced.

    Attributes:
        learner: the live learner, in train mode between evaluations.
        functional: the learner as a function of theta_S.
        optimizer: the learner's.
        designer: the task designer, if the arm has one.
        designer_optimizer: the designer's, if it is trained.
        counters: progress so far.
        running: running means of the learner's gradients, where the arm's estimator takes any.
        held: the feedback that is held; None where none is.
        held_mean: the stream's mean gradient that is held; None where none is.
        direct: the training by TRL that has begun; None where none has.
        sharded: the learner in shards, where its blocks below S are; None where it is whole.
    """

    learner: nn.Module
    functional: FunctionalLearner
    optimizer: torch.optim.Optimizer
    designer: nn.Module | None
    designer_optimizer: torch.optim.Optimizer | None
    counters: Counters = field(default_factory=Counters)
    running: RunningMeans | None = None
    held: HeldFeedback | None = None
    held_mean: HeldMean | None = None
    direct: DirectState | None = None
    sharded: ShardedLearner | None = None

    @property
    def means(self) -> tuple[Params, ...]:
        """Means of the stream's gradients: the one that is held, and the running ones there are."""
        held = () if self.held_mean is None else (self.held_mean.gradient,)
        return held if self.running is None else (*held, *self.running.means)


OPTIMIZERS: dict[OptimizerName, type[torch.optim.Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "adamax": torch.optim.Adamax,
    "adagrad": torch.optim.Adagrad,
    "rmsprop": torch.optim.RMSprop,
    "adadelta": torch.optim.Adadelta,
    "adafactor": torch.optim.Adafactor,
    "asgd": torch.optim.ASGD,
}


def build_optimizer(options: OptimizerOptions, learner: nn.Module) -> torch.optim.Optimizer:
    """The learner's optimizer over every trainable parameter."""
    kind = options.optimizer
    own: dict[str, Any] = {"lr": options.lr, "weight_decay": options.weight_decay}
    if kind in WITH_BETAS:
        own["betas"] = options.betas
    if kind in ("sgd", "rmsprop"):
        own["momentum"] = options.momentum
    return OPTIMIZERS[kind]([p for p in learner.parameters() if p.requires_grad], **own)


def new_arm_state(
    start: nn.Module,
    align: str,
    optimizer: OptimizerOptions,
    designer: nn.Module | None,
    designer_lr: float | None,
    device: torch.device | None = None,
    shards_of: Processes | None = None,
) -> ArmState:
    """An arm at the start checkpoint.

    Args:
        start: the start learner; it is copied, so that every arm begins with the same numbers.
        align: the subset S.
        optimizer: the learner's.
        designer: the arm's own designer, or None.
        designer_lr: the designer's step size; None freezes it.
        device: device of the arm; None keeps the start learner's.
        shards_of: processes that each hold a part of the learner's blocks below S; None is a whole
            learner.

    Returns:
        The state, with counters at zero.

    Raises:
        UserError: nothing lies below S that there were to spread.
    """
    if shards_of is None:
        learner, sharded = copy.deepcopy(start).to(device).train(), None
        seen = functional(learner, align)
    else:
        sharded = spread(start, align, device or torch.device("cpu"), shards_of)
        learner, seen = sharded.live.train(), sharded.seen
    designer_optimizer = None
    if designer is not None and designer_lr is not None:
        designer_optimizer = torch.optim.Adam(designer.parameters(), designer_lr)
    return ArmState(
        learner,
        seen,
        build_optimizer(optimizer, learner),
        designer,
        designer_optimizer,
        sharded=sharded,
    )
