"""Reads the next step of a live `torch.optim` optimizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.simulate.adam import Adam
from vfunc.simulate.clip import Clip
from vfunc.simulate.rule import OptimizerState, Rule, TensorState
from vfunc.simulate.sgd import SGD
from vfunc.simulate.update import UpdateRule
from vfunc.trees import Params


def from_optimizer(
    optimizer: torch.optim.Optimizer,
    parameters: Mapping[str, Tensor],
    *,
    clip: Clip | None = None,
    accumulated: Params | None = None,
    weight: float = 1.0,
    closes_window: bool = True,
) -> tuple[UpdateRule, OptimizerState]:
    """Read the next step of a live optimizer: its hyper-parameters and a view of its state.

    Args:
        optimizer: a `torch.optim.SGD`, `Adam` or `AdamW`.
        parameters: name -> the live parameter, for the subset S.
        clip: the clipping that the training loop does before `optimizer.step()`.
        accumulated: the gradient accumulated so far in the window (without this micro-batch).
        weight: this micro-batch's weight in its window.
        closes_window: whether the optimizer steps right after this micro-batch.

    Returns:
        The rule and the state (buffers are shared with the optimizer, not copied: simulate before
        the live step, or clone).

    Raises:
        UserError: another optimizer, an option that the simulation does not have (amsgrad,
            maximize), or a parameter that the optimizer does not hold.
    """
    if not isinstance(optimizer, torch.optim.Optimizer):
        raise UserError(f"from_optimizer takes a torch optimizer, not a {type(optimizer).__name__}")
    if not isinstance(parameters, Mapping):
        raise UserError(
            f"from_optimizer takes the live parameters by name, not a {type(parameters).__name__}: "
            "vfunc.functional(module).live, or dict(module.named_parameters())"
        )
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in parameters.items() if id(p) not in groups]
    if missing:
        raise UserError(
            f"the optimizer does not hold {len(missing)} of the parameters in S, such as "
            f"{missing[0]!r}; pass the live parameters that it was built from"
        )
    rules = {name: _rule(optimizer, groups[id(p)]) for name, p in parameters.items()}
    state: OptimizerState = {}
    for name, p in parameters.items():
        live = optimizer.state.get(p, {})
        buffers = {
            key: live[key].detach()
            for key in ("momentum_buffer", "exp_avg", "exp_avg_sq")
            if isinstance(live.get(key), Tensor)
        }
        if buffers:
            state[name] = TensorState(int(live.get("step", 1)), buffers)
    return UpdateRule(rules, clip, accumulated, weight, closes_window), state


def _rule(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> Rule:
    for option in ("amsgrad", "maximize"):
        if group.get(option):
            raise UserError(f"{option}=True is not simulated; use an optimizer without it")
    lr, decay = float(group["lr"]), float(group["weight_decay"])
    if isinstance(optimizer, torch.optim.SGD):
        return SGD(
            lr,
            float(group["momentum"]),
            float(group["dampening"]),
            bool(group["nesterov"]),
            decay,
        )
    if isinstance(optimizer, torch.optim.Adam | torch.optim.AdamW):
        decoupled = bool(
            group.get("decoupled_weight_decay", isinstance(optimizer, torch.optim.AdamW))
        )
        return Adam(lr, tuple(group["betas"]), group["eps"], decay, decoupled)
    raise UserError(
        f"no simulated step for {type(optimizer).__name__}; known: SGD, Adam, AdamW. "
        "Write a `vfunc.simulate.Rule` and pass `UpdateRule(your_rule)`"
    )
