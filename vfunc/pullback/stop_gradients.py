"""Finds stop-gradients in a loss, which a second derivative through the learner does not see.

With `.detach()`, `torch.no_grad()` or `.item()` around something that phi or theta reaches, plain
gradients are not the slopes of the loss. What the learner's step then does with phi is more than
any engine differentiates: `reverse` and `forward` leave out what phi puts into the loss that way,
and `finite_difference` moves what the step holds constant. Each reports a small error of its own.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import replace

import torch
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem.pieces_of_code import first_time, remember
from vfunc.problem.purity import modules_of
from vfunc.pullback.engine import ProductRequest
from vfunc.pullback.graph import custom_functions
from vfunc.pullback.held_constant import COARSEST, hidden
from vfunc.pullback.missing import MissingDerivativeError

REMEDY = (
    "look for .detach(), torch.no_grad(), .item() around something that depends on it. A "
    "ValueProblem with stop_gradient=True gives pretrain_loss theta once more, as a third argument "
    "that is held constant: compute it from that"
)


IN_THETA = "a stop-gradient in theta"
"""What lacks a derivative, to `MissingDerivativeError`, where forward mode goes through it."""


_SPECTRAL = {parametrizations._SpectralNorm, SpectralNorm}
"""Spectral norms: the parametrization, and the older hook."""


class StopGradientError(UserError):
    """A loss holds constant what an engine would have to differentiate."""


def is_stop_gradient(error: Exception) -> bool:
    """Whether an engine has refused because of a stop-gradient."""
    return isinstance(error, StopGradientError) or getattr(error, "operation", "") == IN_THETA


def require_no_stop_gradient(request: ProductRequest, engine: str, code: Hashable) -> None:
    """Refuse what an engine would get wrong because of a stop-gradient in the loss.

    The loss is looked at once for each piece of code that computes it, by a gradient and two
    forwards for each of two directions: in theta, in the task, and in the part of it that depends
    on theta. No estimate counts these among its passes. The memory is by code, truth values and
    zeros that the loss closes over (`code_of`): what an entry of a batch switches on later is not
    seen.

    Args:
        request: what the engine is asked for.
        engine: its name.
        code: what is remembered of the loss (`code_of`).

    Raises:
        StopGradientError: the loss holds constant what phi reaches; or what theta reaches, where
            the engine is `finite_difference` or a Hessian product is wanted.
        MissingDerivativeError: it holds constant what theta reaches, and the engine takes tangents:
            `auto` goes on to `reverse`.
    """
    if request.round_off > COARSEST:
        return
    reverse = engine == "reverse" and not request.hessian
    key = (code, request.designed, request.problem.stop_gradient, engine == "linear")
    clean, in_theta = (key, "no stop-gradient"), (key, "one in theta, none in the task")
    if not first_time(in_theta):  # seen once, and at another point perhaps too small to be seen
        if not reverse:
            raise _refusal(request, engine)
        return
    if not first_time(clean):
        return
    if request.hessian and (name := _spectral_norm(request.problem.pretrain_loss)):
        raise StopGradientError(
            f"pretrain_loss goes through the spectral norm of {name} in train mode, whose singular "
            "vectors follow theta under torch.no_grad(), and Hessian products lack that: put the "
            "learner in eval mode, or take first_order"
        )
    # a form that is linear in what the designer makes says all that there is to say of the task
    found = hidden(replace(request, designed=()) if engine == "linear" else request)
    if found.task:
        raise StopGradientError(
            "pretrain_loss holds constant what depends on the task's "
            f"{' and '.join(map(repr, request.designed))} (a stop-gradient), and the value's "
            f"gradient in phi would lack that: {REMEDY}, or make it a part of the batch"
            + _also(request)
        )
    remember(in_theta if found.theta else clean)
    if found.theta and not reverse:
        raise _refusal(request, engine)


def _refusal(request: ProductRequest, engine: str) -> UserError:
    """What a stop-gradient in theta makes wrong: Hessian products, differences, tangents.

    Forward mode goes through `torch.no_grad()`, though not through `.detach()`.
    """
    if request.hessian or engine == "finite_difference":
        what = "Hessian products, which lack" if request.hessian else "differences, which move"
        return StopGradientError(
            f"pretrain_loss holds constant what depends on theta (a stop-gradient), and the engine "
            f"{engine!r} takes {what} that: {REMEDY}"
            + ("" if request.hessian else ", or take the engine reverse")
        )
    said = "forward mode goes through torch.no_grad(); write it with theta as a third argument"
    return MissingDerivativeError(engine, IN_THETA, said)


def _also(request: ProductRequest) -> str:
    """What else may be to blame: custom functions, backward hooks of modules among them."""
    with torch.enable_grad():
        loss = request.loss(trees.leaves(request.theta), trees.leaves(request.made))
    names = " and ".join(custom_functions([loss]))
    return f". Look, too, whether the backward pass of {names} is its gradient" if names else ""


def _spectral_norm(function: object) -> str:
    """The class of the first module with a spectral norm that iterates, if there is one.

    What it misses in a loss is second order, and no slope of the loss shows it.
    """
    for module in modules_of(function):
        for part in module.modules():
            hooks = map(type, part._forward_pre_hooks.values())
            if part.training and (type(part) in _SPECTRAL or not _SPECTRAL.isdisjoint(hooks)):
                return type(module).__name__
    return ""
