"""Splits the learner in two where its first block with a parameter in S begins.

Let h be what enters that block: the edge. Layers below S hold nothing that an estimate moves, so h
is computed once, at full speed, with whatever attention kernels the layers have and without
tangents or a graph; transforms see what comes above alone. Estimators need not know: h is one more
entry of the task.

The cut is made in the live module, for the length of a call: below the edge, blocks hand h on
instead of computing. What else the learner makes of its inputs (masks, rotary angles) is made
again, and so costs what it costs, but is exact whatever it is.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from vfunc import trees
from vfunc.learner import FunctionalLearner, RandomState, blocks, first_block_of
from vfunc.trees import Params

ROUNDING = 32
"""Largest relative difference between halves and whole, in unit round-offs of float32 (float64).

In bfloat16 and float16 that leaves next to nothing: the same kernels see the same numbers.
"""

MOVED = 0.1
"""Relative size of the trial's random change of parameters and of a layer's output."""


@dataclass(frozen=True)
class Whole:
    """A learner that is not split, and the reason."""

    why: str


UNCUT = Whole("")
"""Of a learner that nobody has tried to cut."""


@dataclass(frozen=True)
class Split:
    """A place to split a learner, found and tried by `split_at_edge`.

    Attributes:
        stack: name of the stack of blocks.
        below: number of its blocks below the edge.
        depth: number of its blocks.
        rest: outputs of a block besides the hidden state; None if it returns no tuple.
    """

    stack: str
    below: int
    depth: int
    rest: tuple[Any, ...] | None = None

    @property
    def why(self) -> str:
        """The split in a line, for the log."""
        return f"the lower {self.below} of {self.depth} blocks are computed once, without tangents"

    def prefix(self, learner: FunctionalLearner, *args: Any, **kwargs: Any) -> Tensor:
        """The edge h, computed by the layers below S alone; the forward ends there.

        Args:
            learner: the module, and the subset S that the split was made for.
            *args: the module's own arguments.
            **kwargs: likewise.

        Returns:
            What the last block below S returns, with its graph to the arguments, if any.
        """
        return _prefix(learner, self._blocks(learner.module)[-1], learner.theta, args, kwargs)[0]

    def suffix(
        self, learner: FunctionalLearner, theta: Params, edge: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """The module's output with theta in place of S and `edge` for what the blocks below make.

        Args:
            learner: the module, and the subset S that the split was made for.
            theta: shaped like S.
            edge: h.
            *args: the module's own arguments, those that gave h.
            **kwargs: likewise.
        """
        with self.handing_on(learner.module, edge):
            return learner(theta, *args, **kwargs)

    def computed(self, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        """The edge h as the module computes it by itself, its hooks run too, without a graph.

        Args:
            module: the live module, whose blocks above the edge do not compute.
            *args: its own arguments.
            **kwargs: likewise.
        """
        above = list(module.get_submodule(self.stack).children())[self.below :]
        with torch.no_grad(), self.capture(module) as edges, _answering(above, self._on(edges)):
            module(*args, **kwargs)
        return edges[0]

    def _on(self, edges: list[Tensor]) -> Callable[[], Any]:
        """What a block gives that hands on the last of these."""
        return lambda: edges[-1] if self.rest is None else (edges[-1], *self.rest)

    @contextlib.contextmanager
    def handing_on(self, module: nn.Module, edge: Tensor) -> Iterator[None]:
        """Within the context the blocks below the edge hand it on instead of computing.

        Args:
            module: the live module.
            edge: what the last of them would give.
        """
        with _answering(self._blocks(module), self._on([edge])):
            yield

    @contextlib.contextmanager
    def capture(self, module: nn.Module) -> Iterator[list[Tensor]]:
        """Note the edge of forwards that the module makes within the context, detached."""
        found: list[Tensor] = []

        def note(block: nn.Module, args: Any, output: Any) -> None:
            found.append(_hidden(output).detach())

        handle = self._blocks(module)[-1].register_forward_hook(note)
        try:
            yield found
        finally:
            handle.remove()

    def _blocks(self, module: nn.Module) -> list[nn.Module]:
        return list(module.get_submodule(self.stack).children())[: self.below]


def split_at_edge(learner: FunctionalLearner, *args: Any, **kwargs: Any) -> Split | Whole:
    """Split the learner where S begins, and try the split on a call.

    The learner runs in its present mode and precision: first its layers below S, to see whether
    they depend on S; then in halves and as a whole, which have to agree. Every parameter is moved
    off its own value for that, in a copy of them all, so that the split holds wherever training
    goes: a learned skip connection past the edge may start at zero.

    Args:
        learner: the module, and the subset S.
        *args: arguments of a call of the module, as an example.
        **kwargs: likewise.

    Returns:
        The split; or `Whole` and the reason: S begins with the learner's input, or is used before
        its first block; there is no stack of blocks; layers draw random numbers (dropout in train
        mode), which would differ from run to run; blocks pass on more than a hidden state;
        blocks above take more of those below (keys and values that they share); something passes
        by the edge; the copy does not fit the accelerator.
    """
    found = blocks(learner.module)
    if found is None:
        return Whole("the learner has no stack of blocks")
    stack, layers = found
    children = list(layers.children())
    below = first_block_of(learner.names, stack, len(children))
    if below == 0:
        return Whole("S takes in the first block")
    args, kwargs = tree_map_only(Tensor, Tensor.detach, (args, kwargs))
    device = next(learner.module.parameters()).device
    before = RandomState.now(device)
    try:
        return _tried(learner, stack, children, below, args, kwargs)
    except _NotSplit as reason:
        return Whole(str(reason))
    except torch.OutOfMemoryError:
        return Whole("there is no room to try the two parts on a copy of the parameters")
    finally:
        before.restore(device)


class _NotSplit(Exception):
    """Why there is no split."""


class _EdgeReached(Exception):
    """Raised to end a forward at the edge."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _tried(
    learner: FunctionalLearner,
    stack: str,
    children: list[nn.Module],
    below: int,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Split:
    device = next(learner.module.parameters()).device
    before = RandomState.now(device)
    moved, last = _moved(learner.module), children[below - 1]
    theta = trees.leaves({name: moved[name] for name in learner.names})
    with torch.enable_grad():
        edge, _ = _prefix(learner, last, moved | theta, args, kwargs)
    if edge.requires_grad:
        grads = torch.autograd.grad(edge.sum(), list(theta.values()), allow_unused=True)
        early = [name for name, g in zip(theta, grads, strict=True) if g is not None]
        if early:
            raise _NotSplit(f"{early[0]} is in S and used below its first block")
    with torch.no_grad():
        # once more, by the kernels that are taken where there is no graph
        edge, rest = _prefix(learner, last, moved, args, kwargs)
        split, version = Split(stack, below, len(children), rest), edge._version
        try:
            pieces = split.suffix(learner, moved, edge, *args, **kwargs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # keys and values of blocks below that did not run
            what = f"{type(error).__name__}: {error}"[:120]
            raise _NotSplit(f"what is above the edge asks more of what is below ({what})") from None
        whole = learner(moved, *args, **kwargs)
    if not before.same_as(RandomState.now(device)):
        raise _NotSplit("the learner draws random numbers, such as dropout's in train mode")
    if edge._version != version:
        raise _NotSplit("the learner writes into the hidden state of its blocks")
    for piece, want in zip(_floats(pieces), _floats(whole), strict=True):
        dtype = torch.promote_types(want.dtype, torch.float32)
        piece, want = piece.to(dtype), want.to(dtype)
        apart = float((piece - want).norm() / want.norm().clamp(min=1e-30))
        if not apart <= ROUNDING * torch.finfo(dtype).eps:
            raise _NotSplit(
                f"the two parts are off the whole by {apart:.0e}: something passes by the edge"
            )
    return split


def _moved(module: nn.Module) -> Params:
    """All the module's parameters, each entry off its value by a random amount."""
    moved = {}
    for seed, (name, p) in enumerate(module.named_parameters()):
        if p.dtype.is_floating_point:
            dtype = torch.promote_types(p.dtype, torch.float32)
            draw = torch.Generator(p.device).manual_seed(seed)
            noise = torch.randn(p.shape, generator=draw, device=p.device, dtype=dtype)
            value = p.detach().to(dtype)
            inputs = max(math.prod(p.shape[1:]), 1)  # that a row of a matrix sums over
            absolute = MOVED / math.sqrt(inputs)
            moved[name] = (value + noise * (MOVED * value.abs() + absolute)).to(p.dtype)
    return moved


def _prefix(
    learner: FunctionalLearner,
    last: nn.Module,
    theta: Params,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> tuple[Tensor, tuple[Any, ...] | None]:
    """The hidden state that `last` returns, and its other outputs."""

    def stop(block: nn.Module, args: Any, output: Any) -> None:
        raise _EdgeReached(output)

    handle = last.register_forward_hook(stop)
    try:
        learner(theta, *args, **kwargs)
    except _EdgeReached as reached:
        output = reached.output
    else:
        raise _NotSplit("the learner does not call the blocks of its stack")
    finally:
        handle.remove()
    return _hidden(output), tuple(output[1:]) if isinstance(output, tuple | list) else None


def _hidden(output: Any) -> Tensor:
    hidden, *rest = output if isinstance(output, tuple | list) else [output]
    if not isinstance(hidden, Tensor) or any(isinstance(x, Tensor) for x in tree_leaves(rest)):
        raise _NotSplit(f"blocks return a {type(output).__name__} of more than a hidden state")
    return hidden


@contextlib.contextmanager
def _answering(modules: list[nn.Module], answer: Callable[[], Any]) -> Iterator[None]:
    """Have these modules return an answer whatever they are called with."""
    before = [(block, block.__dict__.get("forward")) for block in modules]
    try:
        for block in modules:
            block.__dict__["forward"] = lambda *args, **kwargs: answer()
        yield
    finally:
        for block, own in before:
            if own is None:
                block.__dict__.pop("forward", None)
            else:
                block.__dict__["forward"] = own


def _floats(output: Any) -> list[Tensor]:
    leaves = tree_leaves(output)
    return [x for x in leaves if isinstance(x, Tensor) and x.dtype.is_floating_point]
