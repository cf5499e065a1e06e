"""Finds a phi that changes the task on a way without a graph: its gradient would be zero."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem import Construction, Task, ValueProblem
from vfunc.problem.pieces_of_code import code_of, first_time, remember
from vfunc.problem.purity import modules_of
from vfunc.trees import Params

STEP = 0.3
"""How far phi is moved, against the size of its own entries, and where these are small."""

ALONE = (
    "; for the value alone of a frozen designer, let construct hold its parameters itself, and "
    "give a phi that it does not use, such as {'none': torch.zeros(1)}"
)
"""What to do where no gradient is wanted: then nothing is there whose zero could mislead."""


def require_no_hidden_way(problem: ValueProblem, construction: Construction) -> None:
    """Refuse a task that follows phi though no entry of it has a graph.

    A phi that `construct` does not use is allowed: the gradient is zero there, and rightly so. To
    tell the two apart the task is made three times more, once for each piece of code: twice at phi,
    for what does not repeat itself, and at a phi some way off, from the same random numbers; where
    it seems to follow, once more at both. A choice that phi makes (places of the best) counts as
    following it.

    A designer that is frozen on purpose is refused too: who asks for a gradient is to get one.
    Its value is asked for with another phi (`ALONE`).

    Args:
        problem: gives `construct`.
        construction: a task without an entry that has a graph.

    Raises:
        UserError: the task is another one at the other phi; or a live module makes it whose
            parameters phi is.
    """
    key = (code_of(problem.construct), "no way from phi to the task")
    if not first_time(key):
        return
    phi = trees.detach(construction.phi)
    drawn = trees.normal_like(phi, torch.Generator().manual_seed(0))
    moved = {n: x + STEP * (x.abs() + 1) * drawn[n] for n, x in phi.items()}
    here, again = (_made(problem, phi, construction) for _ in range(2))
    with _running(problem.construct, phi) as live:
        try:
            there = _made(problem, moved, construction)
        except Exception:  # phi may have a domain (probabilities): in another order it is within
            moved = {n: x.flatten().roll(1).view_as(x) for n, x in phi.items()}
            there = _made(problem, moved, construction)
    followed = [n for n in here if _alike(n, here, again) and not _alike(n, here, there)]
    if followed:  # once more: a count of calls or a draw of the function's own may have done it
        again, further = (_made(problem, at, construction) for at in (phi, moved))
        followed = [n for n in followed if _alike(n, here, again) and _alike(n, there, further)]
    if followed:
        raise UserError(
            f"construct's {', '.join(map(repr, followed))} follows phi "
            f"{trees.described(phi)} without a graph to it, and the value's gradient in phi would "
            "be zero: look for .detach(), torch.no_grad(), .item() or a rounding or a choice in it"
            + ALONE
        )
    if live:
        raise UserError(
            f"construct calls the live {live[0]} whose parameters phi is, without a graph to the "
            "phi that it is given: call it as torch.func.functional_call(designer, phi, ...) or by "
            "vfunc.functional(designer)" + ALONE
        )
    remember(key)


@contextlib.contextmanager
def _running(construct: Callable[..., object], phi: Params) -> Iterator[list[str]]:
    """Names of the modules that run within with phi's own memory for their parameters."""
    own, found = {x.data_ptr() for x in phi.values() if x.numel()}, list[str]()

    def holds(module: nn.Module) -> bool:
        return any(p is not None and p.data_ptr() in own for p in module._parameters.values())

    def note(module: nn.Module, _: object) -> None:
        if holds(module):
            found.append(type(module).__name__)

    parts = {part for one in modules_of(construct) for part in one.modules() if holds(part)}
    hooks = [part.register_forward_pre_hook(note) for part in parts]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _made(problem: ValueProblem, phi: Params, construction: Construction) -> Task:
    """The task at phi, from the same random numbers each time."""
    device = next(iter(phi.values())).device
    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        torch.enable_grad(),
    ):
        torch.manual_seed(0)
        # with gradients, as it was first called: it may take some of a teacher's within
        return trees.detach(problem.construct(trees.leaves(phi), construction.batch))


def _alike(name: str, task: Task, other: Task) -> bool:
    """Whether two tasks have the same entry of a name, or neither has one."""
    if name not in task or name not in other:
        return name not in task and name not in other
    return _equal(task[name], other[name])


def _equal(x: Tensor, other: Tensor) -> bool:
    """Whether two entries hold the same numbers, NaN included."""
    if x.shape != other.shape or x.dtype != other.dtype:
        return False
    if not x.is_floating_point():
        return torch.equal(x, other)
    return torch.allclose(x, other, rtol=0, atol=0, equal_nan=True)
