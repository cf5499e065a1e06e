"""Reads the next step of a live `torch.optim` optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.lr_scheduler import LRScheduler

from vfunc.errors import UserError
from vfunc.simulate.clip import Clip
from vfunc.simulate.groups import READERS, Reader
from vfunc.simulate.overrides import INSTEAD, refuse_gradient_hooks, refuse_overridden
from vfunc.simulate.rule import OptimizerState, Rule, TensorState
from vfunc.simulate.schedule import Groups, Schedule, later_by_factors, later_by_scheduler
from vfunc.simulate.update import UpdateRule
from vfunc.simulate.windows import read_windows

UNSUITED = {
    "LBFGS": "it asks for the loss several times in one step",
    "SparseAdam": "it steps the entries of a sparse gradient alone",
}
SCALARS = ("mu_product", "eta", "mu")
"""State that depends on the count of steps alone (NAdam's, ASGD's)."""


def from_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    *,
    clip: Clip | None = None,
    accumulated: Mapping[str, Tensor | None] | None = None,
    weight: float = 1.0,
    closes_window: bool = True,
    windows: Sequence[Sequence[float]] | None = None,
    schedule: Schedule | None = None,
) -> tuple[UpdateRule, OptimizerState]:
    """Read the next step of a live optimizer: its hyper-parameters and a view of its state.

    A parameter whose `.grad` is all zeros (`zero_grad(set_to_none=False)`) is stepped even where
    the loss does not reach it, as the live optimizer does.

    Args:
        optimizer: any of torch.optim but LBFGS and SparseAdam, without a step or hooks of its own.
        parameters: name -> the live parameter, for the subset S.
        clip: the clipping that the training loop does before `optimizer.step()`.
        accumulated: the gradient accumulated so far in the window (without this micro-batch), by
            name; None stands for no gradient yet, and names outside S are left out.
        weight: this micro-batch's weight in its window.
        closes_window: whether the optimizer steps right after this micro-batch.
        windows: in place of these two, the shares of the micro-batches that each step takes: this
            window's, from this one on, then those of later steps, the problem's batches in turn.
            None: later windows have 1 / weight equal shares, and so has this one, where nothing
            is accumulated yet. `Unrolled` takes whole windows where the problem has the batches.
        schedule: what the step sizes of later steps follow: the optimizer's scheduler, stepped
            once after every step (a copy is stepped here), or k -> the size of the k-th later
            step as a multiple of the next one's. None keeps the present size.

    Returns:
        The rule and the state (buffers are shared with the optimizer, not copied: simulate before
        the live step, or clone).

    Raises:
        UserError: an optimizer or a scheduler that is not simulated, a step or a hook that is not
            torch's own, or a parameter that the optimizer does not hold.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        name = type(optimizer).__name__
        raise UserError(f"from_optimizer takes a torch optimizer, not a {name}{_inside(optimizer)}")
    if not isinstance(parameters, Mapping):
        raise UserError(
            f"from_optimizer takes the live parameters by name, not a {type(parameters).__name__}: "
            "vfunc.functional(module).live, or dict(module.named_parameters())"
        )
    if not parameters:
        raise UserError("from_optimizer takes the parameters in S by name, and there are none")
    if accumulated is not None:
        accumulated = _gradients(accumulated, parameters)
    shares = None
    if windows is not None:
        shares = read_windows(windows)
        if weight not in (1.0, shares[0][0]):
            raise UserError(
                f"weight is {weight:g}, and windows says {shares[0][0]:g}: leave `weight` out"
            )
        weight, closes_window = shares[0][0], len(shares[0]) == 1
    reader = _reader(optimizer)
    places = {id(p): i for i, group in enumerate(optimizer.param_groups) for p in group["params"]}
    missing = [name for name, p in parameters.items() if id(p) not in places]
    if missing:
        raise UserError(
            f"the optimizer does not hold {len(missing)} of the parameters in S, such as "
            f"{missing[0]!r}; pass the live parameters that it was built from"
        )
    refuse_gradient_hooks(parameters)

    def read(groups: Groups) -> dict[str, Rule]:
        try:
            rules = {i: reader(groups[i]) for i in {places[id(p)] for p in parameters.values()}}
        except (TypeError, ValueError) as error:
            raise UserError(
                f"an option of {type(optimizer).__name__} cannot be read: {error}"
            ) from error
        return {name: rules[places[id(p)]] for name, p in parameters.items()}

    rules = read(optimizer.param_groups)
    later = None
    if isinstance(schedule, LRScheduler):
        later = later_by_scheduler(schedule, optimizer, read)
    elif callable(schedule):
        later = later_by_factors(rules, schedule)
    elif schedule is not None:
        raise UserError(
            "schedule takes a scheduler of torch.optim.lr_scheduler, or a function of the step, "
            f"not a {type(schedule).__name__}"
        )
    rule = UpdateRule(
        rules,
        clip,
        accumulated,
        weight,
        closes_window,
        shares,
        later,
        cleared=_cleared(parameters, accumulated),
        base=_at_base(rules, optimizer.param_groups, read),
        origin=(optimizer, parameters),
    )
    return rule, _state(optimizer, parameters)


def _at_base(
    rules: Mapping[str, Rule], groups: Groups, read: Callable[[Groups], dict[str, Rule]]
) -> dict[str, Rule] | None:
    """The rules at the sizes that a scheduler starts from, where all are zero now (a warm-up)."""
    known = all("initial_lr" in group for group in groups)
    if not known or any(rule.lr for rule in rules.values()):
        return None
    base = read([{**group, "lr": group["initial_lr"]} for group in groups])
    return base if any(rule.lr for rule in base.values()) else None


def _reader(optimizer: torch.optim.Optimizer) -> Reader:
    """How the optimizer's groups are read.

    Raises:
        UserError: it is not simulated, or steps otherwise than its class.
    """
    name = type(optimizer).__name__
    for unsuited, reason in UNSUITED.items():
        if isinstance(optimizer, getattr(torch.optim, unsuited)):
            raise UserError(f"no simulated step for {unsuited}: {reason}; take another optimizer")
    for kind in type(optimizer).__mro__:
        if kind.__name__ in READERS and getattr(torch.optim, kind.__name__, None) is kind:
            refuse_overridden(optimizer, kind)
            return READERS[kind.__name__]
    inside = _inside(optimizer)
    raise UserError(
        f"no simulated step for {name}{inside}; known: {', '.join(READERS)}. Else {INSTEAD}"
    )


def _inside(optimizer: object) -> str:
    """What to give in place of a wrapper (Accelerate's, for one), if it is one."""
    held = getattr(optimizer, "optimizer", None)
    if not isinstance(held, torch.optim.Optimizer):
        return ""
    return f", which wraps {type(held).__name__}: give its .optimizer"


def _state(optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]) -> OptimizerState:
    state: OptimizerState = {}
    for name, p in parameters.items():
        live = {k: x for k, x in optimizer.state.get(p, {}).items() if isinstance(x, Tensor)}
        taken = int(live.pop("step")) if "step" in live else 1
        scalars = {k: live.pop(k).detach() for k in SCALARS if k in live}
        if live:
            state[name] = TensorState(taken, {k: x.detach() for k, x in live.items()}, scalars)
    return state


def _gradients(given: Any, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The accumulated gradients that are there, of parameters in S."""
    if not isinstance(given, Mapping):
        raise UserError(
            f"accumulated takes gradients by the parameters' names, not a {type(given).__name__}"
        )
    found: dict[str, Tensor] = {}
    for name, x in given.items():
        if x is None or name not in parameters:
            continue
        if not isinstance(x, Tensor) or x.shape != parameters[name].shape:
            what = tuple(x.shape) if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise UserError(
                f"accumulated[{name!r}] is {what}; it has to be a gradient of shape "
                f"{tuple(parameters[name].shape)}, or None"
            )
        found[name] = x.detach()
    return found


def _cleared(
    parameters: Mapping[str, Tensor], accumulated: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """Zeros, in no memory, for parameters whose `.grad` is there and zero."""
    there = {
        name: p
        for name, p in parameters.items()
        if p.grad is not None and name not in (accumulated or {}) and not p.grad.is_sparse
    }
    if not there:
        return {}
    by_device: dict[torch.device, dict[str, Tensor]] = {}
    for name, p in there.items():
        assert p.grad is not None
        by_device.setdefault(p.device, {})[name] = p.grad.any()
    zero = {
        name: not moved
        for flags in by_device.values()  # one wait a device
        for name, moved in zip(flags, torch.stack(list(flags.values())).tolist(), strict=True)
    }
    return {n: p.detach().new_zeros(()).expand_as(p) for n, p in there.items() if zero[n]}
