"""Estimates the memory of a plain step of a vision learner, without allocating any of it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._pytree import tree_map_only

from vfunc.forward_pass import autocast
from vfunc.training.build.kept_bytes import copies_of, counting_saved, fake
from vfunc.training.options.optimizer_options import OptimizerOptions
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.objectives.objective import Objective


@dataclass(frozen=True)
class Estimated:
    """What a plain step needs, in bytes.

    Attributes:
        weights: student and teacher.
        optimizer: gradients, and the optimizer's state.
        activations: activations that the student's forward keeps for its backward.
    """

    weights: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.activations


def estimated(
    learner: nn.Module,
    objective: Objective,
    batch: Callable[[int], UnlabeledBatch],
    optimizer: OptimizerOptions,
    *,
    pictures: int,
    dtype: torch.dtype | None,
) -> Estimated:
    """What a plain step needs.

    Args:
        learner: student and teacher, on any device, meta too.
        objective: the self-supervised objective.
        batch: crops of so many pictures, the same crops of each.
        optimizer: the optimizer, whose kind decides the size of its state.
        pictures: number of pictures in a step.
        dtype: dtype of mixed precision, or None.
    """
    copies = copies_of(optimizer)
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    weights = sum(p.numel() * p.element_size() for p in learner.parameters())
    # copies of weights in lower precision are of a step, not of a picture
    one, two = (kept_bytes(learner, objective, batch(n), dtype) for n in (1, 2))
    return Estimated(weights, 4 * copies * trained, one + (pictures - 1) * (two - one))


def kept_bytes(
    learner: nn.Module, objective: Objective, batch: UnlabeledBatch, dtype: torch.dtype | None
) -> int:
    """Bytes that the student's forward keeps for its backward, beside the parameters themselves.

    On tensors without numbers, as a CPU would go about it. On the meta device torch has neither
    mixed precision nor fused attention, and would count every attention weight.
    """
    device = torch.device("cpu")

    fake_here = functools.partial(fake, device=device)
    calls = objective.calls(batch, batch.views).values()
    state = {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
    with FakeTensorMode(), counting_saved() as saved, autocast(device, dtype):
        held = {name: fake(x, device) for name, x in state.items()}
        for call in calls:
            functional_call(learner, held, tree_map_only(Tensor, fake_here, call))
        # matrix products keep the transpose of their weight, which is the weight
        own = {x.untyped_storage()._cdata for x in held.values()}
    return sum(size for storage, size in saved.items() if storage not in own)
