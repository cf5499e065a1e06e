"""The learner's hidden state as a designer sees it: what enters one of its blocks."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.learner import RandomState, blocks, first_block_of, mode


@dataclass(frozen=True)
class HiddenState:
    """A place in the learner's stack of blocks, and what is there.

    Attributes:
        block: number of the block that it enters, from 0; the number of blocks is behind the last.
        width: its size, D.
    """

    block: int
    width: int


def edge_of(module: nn.Module, subset: Collection[str]) -> HiddenState:
    """The hidden state that enters the first block of S.

    Where S takes in the first block, that is the embedding, which knows nothing of the context:
    then what enters the block halfway up is taken. It is an input of the task like the
    log-probabilities, computed at theta_t and held constant, and may well depend on S.

    Args:
        module: the learner.
        subset: names of the parameters in S.

    Raises:
        UserError: the learner has no such state.
    """
    found = blocks(module)
    if found is None:
        raise UserError(f"{_NEEDS}, and the learner has no stack of blocks; {_INSTEAD}")
    stack, layers = found
    count = len(list(layers.children()))
    at = first_block_of(subset, stack, count) or count // 2
    return HiddenState(at, width_at(module, at))


def width_at(module: nn.Module, block: int) -> int:
    """The size of what enters a block, by a forward of two tokens; the learner is left as it was.

    Args:
        module: the learner.
        block: number of the block.

    Raises:
        UserError: the learner has no such block, or passes on something else than one hidden state.
    """
    parameter = next(module.parameters())
    tokens = torch.zeros(1, 2, dtype=torch.long, device=parameter.device)
    before = RandomState.now(parameter.device)
    try:
        with torch.no_grad(), mode(module, training=False):
            kept: list[Tensor] = []
            with capture(module, block, kept) as seen:
                module(input_ids=tokens, use_cache=False)
    finally:
        before.restore(parameter.device)
    if len(seen) != 1:
        raise UserError(f"{_NEEDS}, and the learner calls it {len(seen)} times; {_INSTEAD}")
    if not torch.equal(seen[0], kept[0]):
        raise UserError(f"{_NEEDS}, and the learner's blocks write into theirs; {_INSTEAD}")
    if seen[0].shape[:2] != tokens.shape:
        raise UserError(
            f"{_NEEDS}, and that of 2 tokens is of shape {tuple(seen[0].shape)}; {_INSTEAD}"
        )
    return seen[0].shape[-1]


@contextlib.contextmanager
def capture(
    module: nn.Module, block: int, copies: list[Tensor] | None = None
) -> Iterator[list[Tensor]]:
    """Note what enters a block in the forwards that the module makes within the context.

    Args:
        module: the learner.
        block: number of the block; their number is behind the last.
        copies: takes copies, too.

    Yields:
        A list that each forward adds its hidden state (B, T, D) to, detached.

    Raises:
        UserError: there is no such block, or no hidden state enters it.
    """
    stack = blocks(module)
    layers = [] if stack is None else list(stack[1].children())
    if not 0 <= block <= len(layers) or not layers:
        raise UserError(
            f"{_NEEDS}, number {block}, and the learner has {len(layers) or 'no stack of'} blocks"
        )
    seen: list[Tensor] = []

    def note(x: object) -> None:
        seen.append(_state(x))
        if copies is not None:
            copies.append(seen[-1].clone())

    def entering(_: nn.Module, args: Any, kwargs: Any) -> None:
        note(args[0] if args else kwargs.get("hidden_states"))

    def leaving(_: nn.Module, args: Any, output: Any) -> None:
        note(output[0] if isinstance(output, tuple | list) else output)

    if block < len(layers):
        handle = layers[block].register_forward_pre_hook(entering, with_kwargs=True)
    else:
        handle = layers[-1].register_forward_hook(leaving)
    try:
        yield seen
    finally:
        handle.remove()


def _state(x: object) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim != 3 or not x.dtype.is_floating_point:
        kind = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise UserError(f"{_NEEDS} (B, T, D), and the learner's is a {kind}; {_INSTEAD}")
    return x.detach()


_NEEDS = "--designer-features hidden needs the hidden state of a block"
_INSTEAD = "leave it out"
