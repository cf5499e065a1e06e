"""Arithmetic of states in which some tensors are shards: norms, gathering, putting back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.utils._pytree import tree_map_only

CLIP_FLOOR = 1e-6
"""What `torch.nn.utils.clip_grad_norm_` adds to the norm that it divides by."""


def is_shard(x: object) -> bool:
    """Whether a tensor is this process's part of one, as `fully_shard` leaves parameters."""
    return hasattr(x, "device_mesh")


def norm_with_shards(gradients: Sequence[Tensor]) -> Tensor:
    """The norm of gradients of which some are shards: of the whole, the same in every process.

    Args:
        gradients: whole ones, already of all processes, and shards.
    """
    kinds = [[g for g in gradients if is_shard(g) == of_shards] for of_shards in (False, True)]
    # of none there is a norm too, but on the host
    norms: list[Any] = [get_total_norm(kind) for kind in kinds if kind]
    # that of shards is each process's part of a sum, as yet
    full = [norm.full_tensor() if is_shard(norm) else norm for norm in norms]
    return torch.linalg.vector_norm(torch.stack(full)) if full else get_total_norm([])


def clip_shards(parameters: Iterable[nn.Parameter], most: float, norm: float) -> None:
    """Scale gradients down to a norm, as `torch.nn.utils.clip_grad_norm_` does, shards too.

    Args:
        parameters: of the learner; those without a gradient are passed by.
        most: the norm that they may have.
        norm: that they have, all of them: see `norm_with_shards`.
    """
    factor = min(most / (norm + CLIP_FLOOR), 1.0)
    for p in parameters:
        grad: Any = p.grad
        if grad is not None:
            (grad.to_local() if is_shard(grad) else grad).mul_(factor)


def gathered(state: Any, *, kept: bool = True) -> Any:
    """A state with whole tensors, on the host, in place of shards; all processes have to ask.

    Args:
        state: nested containers of tensors: a module's or an optimizer's state.
        kept: whether this process wants them: one alone writes them.

    Returns:
        The same with whole tensors; where they are not kept, with empty ones.
    """

    def whole(x: Any) -> Tensor:
        if not is_shard(x):
            return x
        full = x.full_tensor()  # one at a time: all at once are what fits on no device
        return full.cpu() if kept else full.new_empty(0, device="cpu")

    return tree_map_only(Tensor, whole, state)


def put_back(state: Any, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A module's state with this process's shards in place of whole tensors.

    Args:
        state: whole tensors by name, the same in every process.
        like: the module's own state, whose shards say which part of them is this process's.
    """
    return {name: _part(x, like[name]) for name, x in state.items()}


def put_back_optimizer(state: Mapping[str, Any], parameters: Sequence[Tensor]) -> dict[str, Any]:
    """An optimizer's state with this process's shards in place of whole tensors.

    Args:
        state: as `torch.optim.Optimizer.state_dict` gives it, with whole tensors.
        parameters: the optimizer's, in their order.
    """
    held = {
        number: {
            name: _part(x, parameters[number]) if _entrywise(x, parameters[number]) else x
            for name, x in found.items()
        }
        for number, found in state["state"].items()
    }
    return {**state, "state": held}


def replicated(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What every process holds whole: shards differ from one to the next, and are left out."""
    return {name: x for name, x in state.items() if not is_shard(x)}


def _entrywise(x: object, p: Tensor) -> bool:
    return isinstance(x, Tensor) and x.ndim > 0 and x.shape == p.shape


def _part(whole: Tensor, like: Any) -> Tensor:
    """This process's part of a tensor that it holds whole."""
    if not is_shard(like):
        return whole
    from torch.distributed.tensor import distribute_tensor  # slow to import, and seldom needed

    placed = whole.to(device=like.device)
    return distribute_tensor(placed, like.device_mesh, like.placements, src_data_rank=None)


def held_numbers(module: nn.Module) -> int:
    """How many of a module's parameters' numbers this process holds."""
    held: list[Any] = list(module.parameters())
    shapes = (p.to_local().shape if is_shard(p) else p.shape for p in held)
    return sum(math.prod(shape) for shape in shapes)
