"""A learner of which every process holds S, and a part of each block below it (FSDP2).

Transforms need whole parameters and modules without hooks, and of what is below S they need no
parameter at all: the edge, which the live module computes before them. So the blocks below S are
given to `torch.distributed.fsdp.fully_shard`, which gathers each for the length of its forward and
backward, and sums its gradient; and estimates are shown a twin: the same module, with the very
parameters of S and all that is above the edge, in which the lower blocks hold nothing.

    live     embedding   block 0 ... block L-n-1    block L-n ... block L-1   head
                         shards, hooks              the same parameters
    twin     embedding   (no numbers)               block L-n ... block L-1   head
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import nn

from vfunc.errors import UserError
from vfunc.learner import FunctionalLearner, Subset, blocks, first_block_of, functional
from vfunc.processes import Processes
from vfunc.sharding.shards import is_shard


@dataclass(frozen=True)
class ShardedLearner:
    """A learner in shards, and what estimates see of it.

    Attributes:
        live: the module that trains; its blocks below S are shards over the processes.
        seen: its twin as a function of S, whose parameters are the live ones.
        start: the learner that it was made of, whole and on the host, as the same function.
    """

    live: nn.Module
    seen: FunctionalLearner
    start: FunctionalLearner


def spread(
    start: nn.Module, subset: Subset, device: torch.device, processes: Processes
) -> ShardedLearner:
    """Spread a learner over the processes; every one of them has to ask.

    Args:
        start: the learner, whole and on the host; it is copied.
        subset: S.
        device: this process's device.
        processes: those that hold a part each.

    Raises:
        UserError: nothing lies below S that there were to spread, the processes were given
            different learners, or torch is too old.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    if not hasattr(FSDPModule, "set_reduce_scatter_unused_params"):
        raise UserError(
            f"--shard-learner needs a newer torch than {torch.__version__}, whose fully_shard adds "
            "gradients of different parameters where processes use different ones; 2.14 does not"
        )
    processes.require_same("the learner", start.state_dict())

    names = functional(start, subset)
    live = copy.deepcopy(start)
    lower = _below(live, names)
    twin = _twin(live, lower)
    mesh = init_device_mesh(device.type, (processes.size,))
    for block in lower:  # one by one, so that no more than one is whole on the device
        dtype = torch.promote_types(next(block.parameters()).dtype, torch.float32)
        fully_shard(block, mesh=mesh, mp_policy=MixedPrecisionPolicy(reduce_dtype=dtype))
    fully_shard(live, mesh=mesh, ignored_params={p for p in live.parameters() if not is_shard(p)})
    for part in live.modules():
        if isinstance(part, FSDPModule):
            # losses are parts of a sum, see `vfunc.processes`
            part.set_gradient_divide_factor(1.0)
            part.set_force_sum_reduction_for_comms(True)  # gloo has no other
            # an expert that one process alone has asked: sums are of the same names in each
            part.set_reduce_scatter_unused_params(True)
    live.to(device)
    for path, part in live.named_modules():
        twin.get_submodule(path)._buffers = part._buffers
    return ShardedLearner(live, functional(twin, subset), names)


def require_spreadable(start: nn.Module, subset: Subset) -> int:
    """How many blocks of a learner `spread` would spread.

    Raises:
        UserError: none; or one that cannot be.
    """
    return len(_below(start, functional(start, subset)))


def _below(module: nn.Module, learner: FunctionalLearner) -> list[nn.Module]:
    """The blocks below the first that has a parameter in S."""
    found = blocks(module)
    if found is None:
        raise UserError("--shard-learner needs a stack of blocks, and the learner has none")
    stack, layers = found
    children = list(layers.children())
    first = first_block_of(learner.names, stack, len(children))
    if not first:
        raise UserError(
            "--shard-learner spreads the blocks below S, and S takes in the first: give --align "
            f"last:N with N below {len(children)}"
        )
    lower = children[:first]
    for block in lower:
        kinds = {str(p.dtype).removeprefix("torch.") for p in block.parameters() if p.requires_grad}
        if len(kinds) > 1:
            raise UserError(
                "--shard-learner sums the gradients of a block as one, and trained parameters of a "
                f"block below S are {' and '.join(sorted(kinds))}: give a learner of one precision"
            )
    held_by = [id(p) for block in lower for p in block.parameters()]
    inside = set(held_by)
    if len(inside) < len(held_by):
        raise UserError(
            "--shard-learner: two blocks below S share a weight, of which each would spread, and "
            "train, its own"
        )
    own = {id(part) for block in lower for part in block.modules()}
    outside = [part for part in module.modules() if id(part) not in own]
    held = {id(p) for part in outside for p in part._parameters.values() if p is not None}
    if inside & held:
        raise UserError(
            "--shard-learner: a block below S shares a weight with what is not below S, which has "
            "to stay whole"
        )
    return lower


def _twin(module: nn.Module, lower: list[nn.Module]) -> nn.Module:
    """The module again, with the same tensors but for these blocks' parameters, which are empty."""
    inside = {id(p) for block in lower for p in block.parameters()}
    memo: dict[int, object] = {id(x): x for x in (*module.parameters(), *module.buffers())}
    for p in module.parameters():
        if id(p) in inside:
            empty = torch.empty_like(p, device="meta")
            memo[id(p)] = nn.Parameter(empty, requires_grad=p.requires_grad)
    return copy.deepcopy(module, memo)
