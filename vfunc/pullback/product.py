"""The learner's part of a pullback, by the engine that is asked for or that suits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem import Construction, ValueProblem, entry
from vfunc.problem.pieces_of_code import code_of
from vfunc.problem.purity import using
from vfunc.processes import Processes
from vfunc.pullback.choice import Chosen, after_missing, after_short_memory, choose_engine
from vfunc.pullback.custom_functions import require_custom_derivatives
from vfunc.pullback.engine import (
    Engine,
    JointGradient,
    MixedProduct,
    Passes,
    ProductRequest,
)
from vfunc.pullback.graph import custom_functions
from vfunc.pullback.lost_tangents import require_tangent
from vfunc.pullback.memory import MemoryShortError
from vfunc.pullback.missing import MissingDerivativeError, missing_told
from vfunc.pullback.overridden.weight_norm import plain_weight_norm
from vfunc.pullback.reverse import Reverse
from vfunc.pullback.stop_gradients import require_no_stop_gradient
from vfunc.trees import Params
from vfunc.typecheck import typed


@contextlib.contextmanager
def attention_for(engine: Engine) -> Iterator[None]:
    """Keep scaled_dot_product_attention on the kernel that `engine` can differentiate.

    Flash, memory-efficient and CPU-flash attention have neither a forward mode nor a double
    backward; the math path has both.
    """
    if not engine.differentiates_attention:
        yield
        return
    with sdpa_kernel(SDPBackend.MATH):
        yield


@entry
@typed
def mixed_product(
    problem: ValueProblem,
    theta: Params,
    construction: Construction,
    w: Params,
    engine: str | Engine = "auto",
    *,
    hessian: bool = False,
    repeated: bool = False,
    joint: JointGradient | None = None,
) -> MixedProduct:
    """The learner's part: grad_c <w, g_pre>, and H w if asked for.

    Args:
        problem: gives L_pre.
        theta: the point, shaped like w.
        construction: the task at that point, and which of its entries phi makes.
        w: the direction in learner space, held constant.
        engine: `auto`, a name, or an engine.
        hessian: whether H w is wanted too.
        repeated: whether this is one of many products of a solver (see `ProductRequest`).
        joint: g_pre with its graph, from `kept_gradient` at this point; it serves once, or every
            time where the product is one of many.

    Returns:
        The product, with the engine's name and the reason for it.

    Raises:
        UserError: the engine is unknown or does not apply, or the loss has a stop-gradient that it
            would get wrong.
        MissingDerivativeError: an operation of the learner lacks the derivative that the engine
            needs; with `auto`, that every engine needs.
        NotConvergedError: finite differences of two step sizes disagree, or a step rounds away.
    """
    task, designed = construction.task, construction.designed
    request = ProductRequest(problem, theta, task, designed, w, hessian, repeated, joint)
    chosen = choose_engine(engine, request)
    while True:
        try:
            product = _with_room(chosen, request)
        except MissingDerivativeError as missing:
            if engine != "auto":
                raise
            chosen = after_missing(chosen, missing, request)
            request = replace(request, joint=None)
            continue
        return product if problem.processes.alone else _of_all(problem.processes, product)


@entry
@typed
def kept_gradient(
    problem: ValueProblem,
    theta: Params,
    construction: Construction,
    engine: str | Engine = "auto",
    *,
    hessian: bool = False,
) -> JointGradient | None:
    """g_pre with its graph, so that products at one point share one forward and backward pass.

    Args:
        problem: gives L_pre.
        theta: the point.
        construction: the task at that point, and which of its entries phi makes.
        engine: `auto`, a name, or an engine, as `mixed_product` will be given.
        hessian: whether H w will be wanted too.

    Returns:
        The gradient; None where that engine has no use for its graph, where an operation has no
        second derivative, or where the rest would not fit the device.

    Raises:
        UserError: the engine is unknown or does not apply.
    """
    # engines are chosen by what is asked in which entries: any direction will do
    request = ProductRequest(
        problem, theta, construction.task, construction.designed, theta, hessian
    )
    chosen = choose_engine(engine, request).engine
    if not isinstance(chosen, Reverse):
        return None
    given = {"theta": theta, "task": construction.task}
    with attention_for(chosen), using(problem.pretrain_loss, "pretrain_loss", **given):
        try:
            with missing_told(chosen.name):
                return chosen.joint(request)
        except (MissingDerivativeError, MemoryShortError):  # `mixed_product` has answers to these
            return None


def _of_all(processes: Processes, product: MixedProduct) -> MixedProduct:
    """The product with what all processes' examples add up to; the task is of this one's own."""
    hessian = None if product.hessian is None else processes.summed(product.hessian)
    return replace(product, inner=processes.total(product.inner), hessian=hessian)


def _with_room(chosen: Chosen, request: ProductRequest) -> MixedProduct:
    """The product, by finite differences where a double backward does not fit."""
    try:
        return _product_by(chosen, request)
    except MemoryShortError as short:
        chosen = after_short_memory(chosen, str(short), request.round_off)
    product = _product_by(chosen, replace(request, joint=None))
    return replace(product, passes=product.passes + Passes(forwards=1))


def _product_by(chosen: Chosen, request: ProductRequest) -> MixedProduct:
    given = {"theta": request.theta, "task": request.task}
    loss, name = request.problem.pretrain_loss, chosen.engine.name
    with attention_for(chosen.engine), using(loss, "pretrain_loss", **given):
        # before either is called: what they close over may count their calls
        linear = request.problem.linear
        code = (code_of(loss), linear and code_of(linear.coefficients))
        require_no_stop_gradient(request, name, code)
        require_custom_derivatives(request, name, code)
        try:
            with missing_told(name):
                product = chosen.engine(request)
        except MissingDerivativeError as missing:
            if "weight_norm" not in missing.said:
                raise _named(missing, request) from missing.__cause__
            with plain_weight_norm(), missing_told(name):
                product = chosen.engine(replace(request, joint=None))
        require_tangent(request, name, code, product.task)
        _require_finite(name, product, request)
    if request.hessian and product.hessian is None:
        raise UserError(
            f"the engine {chosen.engine.name!r} returned no Hessian product and did not refuse to: "
            "let its `refusal` say so where `request.hessian` is set"
        )
    return replace(product, engine=chosen.engine.name, why=chosen.why)


def _require_finite(engine: str, product: MixedProduct, request: ProductRequest) -> None:
    """Refuse a product that is no number where <w, g_pre> is one.

    A norm, a root or a quotient at zero has a gradient by convention, and an exact second
    derivative that is none (`F.normalize` of a row of zeros).

    Raises:
        MissingDerivativeError: it is not finite; the engines that come next may have it.
    """
    if engine not in ("reverse", "forward"):
        return
    found = [x for x in (*product.task.values(), *(product.hessian or {}).values()) if x.numel()]
    if not found or torch.isfinite(torch.stack([x.sum().float() for x in found])).all():
        return
    if all(torch.isfinite(x).all() for x in found):
        return  # only their sums are beyond the dtype
    if torch.isfinite(product.inner) and all(torch.isfinite(x).all() for x in request.w.values()):
        said = "its second derivative is not finite here: a norm, a root or a quotient at zero"
        raise MissingDerivativeError(engine, "", said)


def _named(missing: MissingDerivativeError, request: ProductRequest) -> MissingDerivativeError:
    """The error with the custom functions of the loss, where torch names no operation."""
    if missing.operation:
        return missing
    with torch.enable_grad():
        loss = request.loss(trees.leaves(request.theta), request.made)
    custom = " or ".join(custom_functions([loss]))
    return MissingDerivativeError(missing.engine, custom, missing.said)
