"""Compares one step of a copied live optimizer with the simulated one."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.simulate.guarded import guarded_step
from vfunc.simulate.live import from_optimizer
from vfunc.simulate.overrides import INSTEAD
from vfunc.simulate.rule import OptimizerState, Rule, TensorState
from vfunc.simulate.update import UpdateRule

TOGETHER = 2**24
"""Entries of the parameters that are copied at a time, so that a large learner still fits."""

ROUNDINGS = 64
"""Roundings of the arithmetic by which two ways of the same step may differ."""


def check_step(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    rule: UpdateRule | None = None,
    state: OptimizerState | None = None,
) -> float:
    """Hold the simulated step against a step of a copy of the live optimizer.

    Parameters in S, their state and the optimizer are copied, given a fixed random gradient, and
    the copy is stepped: nothing live is changed. Every parameter and buffer has to agree to its
    precision. Clipping and accumulation are the training loop's, and take no part.

    Args:
        optimizer: the live optimizer.
        parameters: name -> the live parameter, for the subset S.
        rule: the simulated step; read from the optimizer where it is not given.
        state: the state it starts from; as above.

    Returns:
        The largest difference, relative to the longest step of an entry of its parameter.

    Raises:
        UserError: the steps differ, naming the parameter and by how much; or see
            `from_optimizer`, which refuses what it sees beforehand.
    """
    read, found = from_optimizer(optimizer, parameters)
    # a step size that is a tensor is as coarse as its dtype
    given = [x for group in optimizer.param_groups for x in group.values()]
    sizes = [x for x in given if isinstance(x, Tensor) and x.is_floating_point()]
    coarsest = max((torch.finfo(x.dtype).eps for x in sizes), default=0.0)
    rule, state = read if rule is None else rule, found if state is None else state
    worst = 0.0
    draw = torch.Generator().manual_seed(0)
    for names in _chunks(parameters):
        live = {name: parameters[name] for name in names}
        g = {
            name: torch.randn(p.shape, generator=draw, dtype=torch.float64).to(p) * 1e-2
            for name, p in live.items()
        }
        stepped, buffers = _copied_step(optimizer, live, g)
        for name, p in live.items():
            own = rule.rule(name)
            p, before = p.detach(), state.get(name, TensorState())
            after, moved = guarded_step(own, p, before, g[name])
            pairs = {name: (p, after, stepped[name])}
            for key, x in moved.buffers.items():
                start = before.buffers.get(key, torch.zeros_like(x))
                if key in buffers[name]:
                    pairs[f"{name}'s {key}"] = (start, x, buffers[name][key])
            for what, (start, simulated, real) in pairs.items():
                gap = _require_equal(what, optimizer, own, start, simulated, real, coarsest)
                worst = max(worst, gap)
    return worst


def check_rule(rule: UpdateRule) -> float | None:
    """`check_step` for a rule, by the optimizer that it was read from.

    Args:
        rule: a problem's `rule`.

    Returns:
        See `check_step`; None where the rule was not read from a live optimizer.

    Raises:
        UserError: see `check_step`.
    """
    return None if rule.origin is None else check_step(*rule.origin)


def _require_equal(
    what: str,
    optimizer: torch.optim.Optimizer,
    rule: Rule,
    start: Tensor,
    simulated: Tensor,
    real: Tensor,
    coarsest: float,
) -> float:
    """The largest difference in units of the longest step; refused beyond rounding."""
    if not simulated.numel():
        return 0.0
    eps = max(torch.finfo(real.dtype).eps, coarsest)
    start, simulated, real = start.double(), simulated.double(), real.double()
    step, gap = (real - start).abs(), (simulated - real).abs()
    allowed = ROUNDINGS * eps * step.max() + 4 * eps * start.abs()
    if bool((gap <= allowed).all()):
        return float(gap.max() / step.max()) if bool(step.any()) else 0.0
    raise UserError(
        f"the simulated step is not the optimizer's own: one step of a copy of "
        f"{type(optimizer).__name__} and of {rule!r:.100} differ in {what} by "
        f"{float(gap.nan_to_num(float('inf')).max()):.1e}, where the step is "
        f"{float(step.max()):.1e} long; something steps otherwise than torch's own class: {INSTEAD}"
    )


def _copied_step(
    optimizer: torch.optim.Optimizer, live: Mapping[str, Tensor], g: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """(parameters, their state) after a step of a copy of the optimizer that holds these alone."""
    twins = {id(p): p.detach().clone().requires_grad_() for p in live.values()}
    apart = ("state", "param_groups", "step")  # a wrapped step is bound to the live optimizer
    rest = {key: x for key, x in vars(optimizer).items() if key not in apart}
    twin = object.__new__(type(optimizer))
    twin.__dict__.update(copy.deepcopy(rest, {id(optimizer): twin, **twins}))
    twin.param_groups = [
        {**copy.deepcopy({k: x for k, x in group.items() if k != "params"}), "params": held}
        for group in optimizer.param_groups
        if (held := [twins[id(p)] for p in group["params"] if id(p) in twins])
    ]
    twin.state = defaultdict(dict)
    for name, p in live.items():
        twins[id(p)].grad = g[name].clone()
        if p in optimizer.state:
            twin.state[twins[id(p)]] = copy.deepcopy(optimizer.state[p])
    twin.defaults["differentiable"] = False  # the same numbers, and no graph
    for group in twin.param_groups:
        group["differentiable"] = False
    try:
        type(optimizer).step(twin)
    except Exception as error:
        raise UserError(
            f"one step of a copy of {type(optimizer).__name__} fails: "
            f"{type(error).__name__}: {error}"
        ) from error
    stepped = {name: twins[id(p)] for name, p in live.items()}
    return {name: p.detach() for name, p in stepped.items()}, {
        name: {k: x for k, x in twin.state.get(p, {}).items() if isinstance(x, Tensor)}
        for name, p in stepped.items()
    }


def _chunks(parameters: Mapping[str, Tensor]) -> Iterator[list[str]]:
    """Names in order, so many at a time."""
    names: list[str] = []
    entries = 0
    for name, p in parameters.items():
        if names and entries + p.numel() > TOGETHER:
            yield names
            names, entries = [], 0
        names.append(name)
        entries += p.numel()
    if names:
        yield names
