"""The learner's part of a pullback, by the engine that is asked for or that suits."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from torch.nn.attention import SDPBackend, sdpa_kernel

from vfunc.errors import UserError
from vfunc.problem import Construction, ValueProblem, entry
from vfunc.problem.arguments import blaming
from vfunc.pullback.choice import Chosen, after_short_memory, choose_engine
from vfunc.pullback.engine import Engine, MixedProduct, Passes, ProductRequest
from vfunc.pullback.memory import MemoryShortError
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

    Returns:
        The product, with the engine's name and the reason for it.

    Raises:
        UserError: the engine is unknown or does not apply.
        NotConvergedError: finite differences of two step sizes disagree, or a step rounds away.
    """
    task, designed = construction.task, construction.designed
    request = ProductRequest(problem, theta, task, designed, w, hessian, repeated)
    chosen = choose_engine(engine, request)
    try:
        return _product_by(chosen, request)
    except MemoryShortError as short:
        chosen = after_short_memory(chosen, str(short), request.round_off)
    product = _product_by(chosen, request)
    return replace(product, passes=product.passes + Passes(forwards=1))


def _product_by(chosen: Chosen, request: ProductRequest) -> MixedProduct:
    given = {"theta": request.theta, "task": request.task}
    with attention_for(chosen.engine), blaming("pretrain_loss", **given):
        product = chosen.engine(request)
    if request.hessian and product.hessian is None:
        raise UserError(
            f"the engine {chosen.engine.name!r} returned no Hessian product and did not refuse to: "
            "let its `refusal` say so where `request.hessian` is set"
        )
    return replace(product, engine=chosen.engine.name, why=chosen.why)
