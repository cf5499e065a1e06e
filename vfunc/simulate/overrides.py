"""Refuses optimizers that step otherwise than their class: subclasses, hooks, patched methods."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

from vfunc.errors import UserError

INSTEAD = (
    "write its arithmetic as a rule (vfunc.simulate.AutomaticRule) and pass "
    "vfunc.UpdateRule(your_rule)"
)


def refuse_overridden(optimizer: torch.optim.Optimizer, known: type[torch.optim.Optimizer]) -> None:
    """Refuse what makes an optimizer's step another than its class's.

    Args:
        optimizer: the live optimizer.
        known: the class of torch.optim whose step is simulated.

    Raises:
        UserError: a method of its own, or a hook.
    """
    name = type(optimizer).__name__
    for method in ("step", "_init_group"):
        own = _original(getattr(type(optimizer), method, None))
        here = vars(optimizer).get(method)
        if here is not None:  # a learning rate scheduler wraps the step to count its calls
            own = _original(here)
        if own is not _original(getattr(known, method, None)):
            raise UserError(
                f"the optimizer's `{method}` is not that of torch.optim.{known.__name__} "
                f"({name} has its own), and would not be simulated; {INSTEAD}"
            )
    hooks = {
        "register_step_pre_hook": vars(optimizer).get("_optimizer_step_pre_hooks"),
        "register_step_post_hook": vars(optimizer).get("_optimizer_step_post_hooks"),
        "register_optimizer_step_pre_hook": _global_optimizer_pre_hooks,
        "register_optimizer_step_post_hook": _global_optimizer_post_hooks,
    }
    for registered, found in hooks.items():
        if found:
            raise UserError(
                f"{name} has a hook, {_named(found.values())} ({registered}), which a simulated "
                "step does not call: do its work in the training loop, or remove it; or "
                f"{INSTEAD}"
            )


def refuse_gradient_hooks(parameters: Mapping[str, Tensor]) -> None:
    """Refuse hooks that change a parameter's gradient on its way to `.grad`, and other kinds.

    Args:
        parameters: name -> the live parameter.

    Raises:
        UserError: a hook, or a parameter that is not real.
    """
    for name, p in parameters.items():
        if not p.is_floating_point():
            raise UserError(
                f"{name} is {p.dtype}: simulated steps are those of real parameters; leave it out "
                "of S, or keep its real and imaginary parts as two parameters"
            )
        hooks = {
            "register_hook": getattr(p, "_backward_hooks", None),
            "register_post_accumulate_grad_hook": getattr(p, "_post_accumulate_grad_hooks", None),
        }
        for registered, found in hooks.items():
            if found:
                raise UserError(
                    f"{name} has a gradient hook, {_named(found.values())} ({registered}), which "
                    "the simulated step does not see: change the loss or clip in the training "
                    "loop in its place, or remove it"
                )


def _original(method: Any) -> Any:
    """The function below all wrappers."""
    return inspect.unwrap(getattr(method, "__func__", method)) if method is not None else None


def _named(hooks: Iterable[Callable[..., Any]]) -> str:
    first = next(iter(hooks))
    return getattr(first, "__qualname__", type(first).__name__)
