"""Looks whether a loss holds something constant: its plain gradients are then not its slopes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vfunc import trees
from vfunc.float64 import promote_float64
from vfunc.pullback.engine import ProductRequest
from vfunc.trees import Params

APART = 0.03
"""Relative difference of a slope and a plain gradient above which they are not the same."""

COARSEST = 1e-5
"""Round-off above which differences of a loss tell nothing: bfloat16's and float16's."""

CLOSER = (1e-6, 1e-9)
"""Relative steps, in float64, at one of which what was found has to be there still: the shorter
one is below any stairs, the longer one above the rounding of what is in float32 all the same."""


@dataclass(frozen=True)
class Hidden:
    """Where plain gradients of a loss are not its slopes.

    Attributes:
        task: in what the designer makes.
        theta: in the learner's parameters.
    """

    task: bool
    theta: bool


def hidden(request: ProductRequest) -> Hidden:
    """Compare the slopes of a loss with its plain gradients, in the task and in theta.

    A kink (a ReLU's, a clamp's) makes the slopes to both sides differ, and is no finding; nor is
    what rounding explains, nor a staircase (a quantiser), whose slope over steps as long as
    float32 needs them is that of the line through its stairs.
    """
    found = _looked_at(request, request.round_off ** (1 / 3))
    if not (found.task or found.theta):
        return found
    try:
        with promote_float64():
            wide = _in_float64(request)
            closer = [_looked_at(wide, step, of=torch.float64) for step in CLOSER]
    except Exception:  # the loss cannot be computed so: what was found stands
        return found
    return Hidden(
        found.task and any(c.task for c in closer), found.theta and any(c.theta for c in closer)
    )


def _in_float64(request: ProductRequest) -> ProductRequest:
    theta, task = (
        {n: x.double() if x.is_floating_point() else x for n, x in at.items()}
        for at in (request.theta, request.task)
    )
    return replace(request, theta=theta, task=task)


class _NotInFloat64Error(Exception):
    """A loss of float64 parameters that is of another dtype."""


def _looked_at(request: ProductRequest, step: float, of: torch.dtype | None = None) -> Hidden:
    """See `hidden`; with `of`, a loss of another dtype is an error."""
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
    if of is not None and at.dtype != of:
        raise _NotInFloat64Error

    def in_theta(step: float, along: Params) -> Tensor:
        return request.loss(trees.axpy(step, along, request.theta), request.made)

    def in_the_task(step: float, along: Params) -> Tensor:
        return request.loss(request.theta, trees.axpy(step, along, request.made))

    return Hidden(
        bool(made)
        and (
            differs(in_the_task, request.made, g_made, at, step)
            or _apart_beyond_theta(request, g_made, at, step)
        ),
        differs(in_theta, request.theta, g_theta, at, step),
    )


def _apart_beyond_theta(request: ProductRequest, g_made: Params, at: Tensor, step: float) -> bool:
    """The same for L(theta') - L(theta): terms that do not depend on theta hide nothing there."""
    generator = torch.Generator().manual_seed(1)
    noise = trees.normal_like(request.theta, generator)
    along = {n: 0.1 * x * _size(request.theta[n]) for n, x in noise.items()}
    there = trees.axpy(1.0, along, request.theta)
    held = there if request.problem.stop_gradient else None
    made = trees.leaves(request.made)
    with torch.enable_grad():
        loss = request.loss(there, made, held)
        g = trees.gradient(loss, made)

    def difference(step: float, along: Params) -> Tensor:
        task = trees.axpy(step, along, request.made)
        return request.loss(there, task, held) - request.loss(request.theta, task)

    between = loss.detach() - at
    return differs(
        difference, request.made, trees.axpy(-1.0, g_made, g), between, step, abs(float(at))
    )


def differs(
    loss: Callable[[float, Params], Tensor],
    point: Params,
    gradient: Params,
    at: Tensor,
    step: float,
    size: float = 0.0,
) -> bool:
    """Whether slopes along random directions differ from the gradient's: along two of three.

    Along one a difference may be missed, where it happens to be orthogonal to the direction.

    Args:
        loss: the function, a step along a direction away from the point.
        point: the point.
        gradient: what is said to be the gradient there.
        at: the function at the point.
        step: of the differences, in units of the entries' sizes.
        size: what is rounded in the function, where that is larger than the function.
    """
    generator = torch.Generator().manual_seed(0)

    def apart() -> bool:
        drawn = trees.normal_like(point, generator)
        along = {
            n: (x * _size(point[n])).where(torch.isfinite(point[n]), 0) for n, x in drawn.items()
        }
        expected = float(trees.dot(finite(gradient), along))
        one = _gap(loss, along, expected, at, step, size)
        if not one.found:
            return False
        other = _gap(loss, along, expected, at, step / 2, size)
        return other.found and abs(one.gap - other.gap) < 0.3 * abs(one.gap)

    first, second = apart(), apart()
    return first if first == second else apart()


def finite(gradient: Params) -> Params:
    """A gradient with zeros for what is not finite (masks)."""
    return {n: g.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0) for n, g in gradient.items()}


@dataclass(frozen=True)
class _Gap:
    """A slope less the gradient's, and whether neither a kink nor rounding explains it."""

    gap: float
    found: bool


def _gap(
    loss: Callable[[float, Params], Tensor],
    along: Params,
    expected: float,
    at: Tensor,
    step: float,
    size: float,
) -> _Gap:
    with torch.enable_grad():
        ahead, behind = (float(loss(way * step, along).detach()) for way in (1, -1))
    if not (math.isfinite(ahead) and math.isfinite(behind)):
        return _Gap(0.0, False)
    here = float(at)
    slope, kink = (ahead - behind) / (2 * step), abs(ahead - 2 * here + behind) / step
    largest = max(abs(ahead), abs(behind), abs(here), size)
    rounding = 8 * torch.finfo(at.dtype).eps * largest / step
    gap = slope - expected
    bound = APART * max(abs(slope), abs(expected)) + 2 * kink + rounding
    return _Gap(gap, abs(gap) > bound)


def _size(x: Tensor) -> Tensor:
    """The size of a tensor's entries, so that a step changes all of them by the same share."""
    x = x.detach()
    square = x.double().where(torch.isfinite(x), 0).pow(2).mean()
    return square.sqrt().clamp(min=1e-3).to(x)
