"""Looks whether a loss reaches theta, and whether forward mode says what its backward pass does."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.forward_pass import round_off
from vfunc.problem.pieces_of_code import first_time, remember
from vfunc.pullback.engine import ProductRequest
from vfunc.pullback.graph import coarsest_of, custom_functions
from vfunc.pullback.missing import MissingDerivativeError
from vfunc.pullback.overridden.frozen_weights import frozen_weights_once
from vfunc.trees import Params, tangent_along

LOST = "the tangent of the loss by forward mode is not what its backward pass says"


def require_tangent(
    request: ProductRequest, engine: str, code: Hashable, found: Mapping[str, Tensor]
) -> None:
    """Check that theta is reached, and tangents of forward mode against a plain gradient.

    Once for each piece of code and engine, by a forward and a backward: of <v, b(theta)>, v random,
    for the engine `linear`, and a forward more, which holds the declared form to the loss; of the
    loss on entries that are a little off the task's own, for `forward`, with one tangent; `reverse`
    sees by itself whether theta is reached. At a minimum of L_pre its own gradient is rounding
    alone, and nothing could be held against it. Some operations of torch's own have a forward mode
    that is zero (`scatter_reduce(..., "prod")`, torch 2.14).

    Args:
        request: what an engine has been asked for.
        engine: its name.
        code: what is remembered of the loss and of its linear form (`code_of`).
        found: what the engine gave, by entry of the task.

    Raises:
        UserError: the loss has a graph, and none to theta; or the problem's own `tangent` is not
            that of its `coefficients`, or these are not the loss's.
        MissingDerivativeError: a tangent is not what the gradient says.
    """
    key = (code, engine, "tangent of the loss")
    if engine == "reverse" or not first_time(key):
        return
    linear = request.problem.linear if engine == "linear" else None
    draw = torch.Generator().manual_seed(0)
    theta = trees.leaves(request.theta)
    made = {
        n: x * (1 + 0.1 * trees.normal_like({n: x}, draw)[n]) if x.is_floating_point() else x
        for n, x in request.made.items()
    }
    v = torch.zeros(())
    with torch.enable_grad():
        if linear is None:
            loss = request.loss(theta, made)
        else:
            b = request.coefficients(theta)
            _require_form(request, b, made)
            v = trees.normal_like({"": b.detach()}, draw)[""]
            loss = (b * v).sum()
        coarsest = max(request.round_off, coarsest_of([loss]))
        g = trees.reached_gradient(loss, theta)
    if loss.requires_grad and not g:
        raise unreached("linear.coefficients" if linear else "pretrain_loss", theta)
    if engine not in ("linear", "forward"):
        remember(key)
        return
    w = {name: request.w[name] for name in g}
    size = float(trees.norm(w) * trees.norm(g)) if g else 0.0
    if not 0 < size < math.inf:
        return  # along no direction nothing is seen
    if linear is None:
        try:
            with frozen_weights_once():  # as the engine runs
                _, tangent = tangent_along(
                    lambda at: request.loss(at, made), request.theta, request.w
                )
        except (RuntimeError, NotImplementedError):  # what the engine has taken had a graph
            return
    else:
        along = found[linear.target] if linear.target in found else request.tangent()
        tangent = (along.to(v.dtype) * v).sum()
    gap = abs(float(tangent.detach()) - float(trees.dot(w, g))) / size
    if not gap <= max(1e-3, 16 * coarsest):
        if linear is not None and linear.tangent is not None:
            raise UserError(
                f"linear.tangent is not the tangent of linear.coefficients along w ({gap:.2g} of "
                "its size off): mend it, or leave it out"
            )
        raise MissingDerivativeError(engine, " or ".join(custom_functions([loss])), LOST)
    remember(key)


def _require_form(request: ProductRequest, b: Tensor, made: Mapping[str, Tensor]) -> None:
    """Check that the declared linear form is the loss, at another target than the task's own.

    Raises:
        UserError: it is not.
    """
    assert request.problem.linear is not None
    name = request.problem.linear.target
    if name not in made:  # nothing is designed
        return
    loss = request.loss(request.theta, dict(made)).detach()
    coarsest = max(request.round_off, round_off(loss.dtype), coarsest_of([b]))
    terms = made[name].to(torch.promote_types(made[name].dtype, b.dtype)) * b.detach()
    told, whole = float(terms.sum()), float(loss)
    size = max(float(terms.abs().sum()), abs(whole))
    if not abs(told - whole) <= max(1e-3, 16 * coarsest) * size:
        raise UserError(
            f"linear.coefficients are not those of pretrain_loss: at another {name!r} than the "
            f"task's, <{name}, coefficients> is {told:.6g} and the loss {whole:.6g}; mend the "
            "form, or leave `linear` out"
        )


def unreached(name: str, theta: Params) -> UserError:
    """What to say of a function that has a graph, and none to theta."""
    return UserError(
        f"{name} has a graph, and none to theta {trees.described(theta)}: does it call the live "
        "module? Call vfunc.functional(module) with the theta that it is given"
    )
