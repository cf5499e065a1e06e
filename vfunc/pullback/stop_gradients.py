"""Finds stop-gradients in a loss, which a second derivative through the learner does not see.

With `.detach()`, `torch.no_grad()` or `.item()` around something that phi or theta reaches, plain
gradients are not the slopes of the loss. What the learner's step then does with phi is more than
any engine differentiates: `reverse` and `forward` leave out what phi puts into the loss that way,
and `finite_difference` moves what the step holds constant. Each reports a small error of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem.purity import code_of, first_time, remember
from vfunc.pullback.engine import ProductRequest
from vfunc.trees import Params

APART = 0.03
"""Relative difference of a slope and a plain gradient above which they are not the same."""

COARSEST = 1e-5
"""Round-off above which differences of a loss tell nothing: bfloat16's and float16's."""

REMEDY = (
    "look for .detach(), torch.no_grad(), .item() around something that depends on it. A "
    "ValueProblem with stop_gradient=True gives pretrain_loss theta once more, as a third argument "
    "that is held constant: compute it from that"
)


@dataclass(frozen=True)
class Hidden:
    """Where plain gradients of a loss are not its slopes.

    Attributes:
        task: in what the designer makes.
        theta: in the learner's parameters.
    """

    task: bool
    theta: bool


def require_no_stop_gradient(request: ProductRequest, engine: str) -> None:
    """Refuse what an engine would get wrong because of a stop-gradient in the loss.

    The loss is looked at once for each piece of code that computes it: two forwards for each of two
    directions, and a plain gradient, which no estimate counts among its passes.

    Args:
        request: what the engine is asked for.
        engine: its name.

    Raises:
        UserError: the loss holds constant what phi reaches; or what theta reaches, where the engine
            is `finite_difference` or a Hessian product is wanted.
    """
    if engine == "linear" or request.round_off > COARSEST:
        return
    wants = request.hessian or engine == "finite_difference"
    code = (code_of(request.problem.pretrain_loss), request.designed, request.problem.stop_gradient)
    clean, half_clean = (code, "no stop-gradient"), (code, "none in the task")
    if not first_time(clean) or not (wants or first_time(half_clean)):
        return
    found = hidden(request)
    if found.task:
        raise UserError(
            "pretrain_loss holds constant what depends on the task's "
            f"{' and '.join(map(repr, request.designed))} (a stop-gradient), and the value's "
            f"gradient in phi would lack that: {REMEDY}, or make it a part of the batch"
        )
    if found.theta and wants:
        what = "Hessian products, which lack" if request.hessian else "differences, which move"
        raise UserError(
            f"pretrain_loss holds constant what depends on theta (a stop-gradient), and the engine "
            f"{engine!r} takes {what} that: {REMEDY}"
            + ("" if request.hessian else ", or take the engine reverse")
        )
    remember(half_clean if found.theta else clean)


def hidden(request: ProductRequest) -> Hidden:
    """Compare the slopes of a loss with its plain gradients, in the task and in theta.

    A kink (a ReLU's, a clamp's) makes the slopes to both sides differ, and is no finding; nor is
    what rounding explains.
    """
    theta, made = trees.leaves(request.theta), trees.leaves(request.made)
    with torch.enable_grad():
        loss = request.loss(theta, made)
        found = trees.gradient(
            loss,
            {f"theta {n}": x for n, x in theta.items()} | {f"task {n}": x for n, x in made.items()},
        )
    g_theta = {n: found[f"theta {n}"] for n in theta}
    g_made = {n: found[f"task {n}"] for n in made}
    at = loss.detach()

    def in_theta(step: float, along: Params) -> Tensor:
        return request.loss(trees.axpy(step, along, request.theta), request.made)

    def in_the_task(step: float, along: Params) -> Tensor:
        return request.loss(request.theta, trees.axpy(step, along, request.made))

    step = request.round_off ** (1 / 3)
    return Hidden(
        bool(made) and _apart(in_the_task, request.made, g_made, at, step),
        _apart(in_theta, request.theta, g_theta, at, step),
    )


def _apart(
    loss: Callable[[float, Params], Tensor],
    point: Params,
    gradient: Params,
    at: Tensor,
    step: float,
) -> bool:
    """Whether slopes along random directions differ from the gradient's: along two of three.

    Along one a difference may be missed, where it happens to be orthogonal to the direction.
    """
    generator = torch.Generator().manual_seed(0)
    first, second = (_apart_along(loss, point, gradient, at, step, generator) for _ in range(2))
    if first == second:
        return first
    return _apart_along(loss, point, gradient, at, step, generator)


def _apart_along(
    loss: Callable[[float, Params], Tensor],
    point: Params,
    gradient: Params,
    at: Tensor,
    step: float,
    generator: torch.Generator,
) -> bool:
    along = {n: x * _size(point[n]) for n, x in trees.normal_like(point, generator).items()}
    with torch.no_grad():
        ahead, behind = (float(loss(way * step, along)) for way in (1, -1))
    if not (math.isfinite(ahead) and math.isfinite(behind)):
        return False
    here = float(at)
    slope, kink = (ahead - behind) / (2 * step), abs(ahead - 2 * here + behind) / step
    expected = float(trees.dot(gradient, along))
    rounding = 8 * torch.finfo(at.dtype).eps * max(abs(ahead), abs(behind), abs(here)) / step
    gap = abs(slope - expected)
    return gap > APART * max(abs(slope), abs(expected)) + 2 * kink + rounding


def _size(x: Tensor) -> Tensor:
    """The size of a tensor's entries, so that a step changes all of them by the same share."""
    return x.detach().double().pow(2).mean().sqrt().clamp(min=1e-3).to(x)
