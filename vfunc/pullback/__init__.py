"""The mixed Hessian-vector product that takes a direction in learner space to the designer.

grad_phi < w , grad_theta L_pre(theta; c_phi(B_u)) >, w held constant: an engine computes its
learner part, `pull_back` adds the plain vector-Jacobian product through the designer. Engines are
interchangeable and equal to rounding (`finite_difference`: to its truncation error).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

from torch.nn.attention import SDPBackend, sdpa_kernel

from vfunc.problem import Construction, ValueProblem
from vfunc.pullback.choice import ENGINES, Chosen, after_short_memory, choose_engine
from vfunc.pullback.engine import GRADIENT, Engine, MixedProduct, Passes
from vfunc.pullback.finite_difference import (
    DIFFERENCES,
    FiniteDifference,
    coarsest_round_off,
    differenced,
)
from vfunc.pullback.forward import Forward
from vfunc.pullback.linear import Linear
from vfunc.pullback.memory import MemoryShortError
from vfunc.pullback.reverse import Reverse
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
) -> tuple[MixedProduct, Chosen]:
    """The learner's part: grad_c <w, g_pre>, and H w if asked for.

    Args:
        problem: gives L_pre.
        theta: the point, shaped like w.
        construction: the task at that point, and which of its entries phi makes.
        w: the direction in learner space, held constant.
        engine: `auto`, a name, or an engine.
        hessian: whether H w is wanted too.
        repeated: whether this is one of many products of a solver, which goes by its own
            residual: finite differences then do without their error estimate.

    Returns:
        The product, and the engine with the reason for it.

    Raises:
        UserError: the engine is unknown or does not apply.
        NotConvergedError: finite differences of two step sizes disagree, or a step rounds away.
    """
    round_off = coarsest_round_off(theta, problem.compute_dtype)
    chosen = choose_engine(
        engine,
        problem.linear,
        construction.designed,
        hessian=hessian,
        no_second_order=problem.no_second_order,
        round_off=round_off,
    )

    def product_by(engine: Engine) -> MixedProduct:
        if repeated and isinstance(engine, FiniteDifference):
            engine = replace(engine, error_estimate=False)
        task, designed = construction.task, construction.designed
        with attention_for(engine):
            return engine(problem, theta, task, designed, w, hessian=hessian)

    try:
        return product_by(chosen.engine), chosen
    except MemoryShortError as short:
        chosen = after_short_memory(chosen, str(short), round_off)
    product = product_by(chosen.engine)
    return replace(product, passes=product.passes + Passes(forwards=1)), chosen


@typed
def pull_back(
    problem: ValueProblem,
    theta: Params,
    construction: Construction,
    w: Params,
    engine: str | Engine = "auto",
) -> tuple[Params, MixedProduct, Chosen]:
    """grad_phi <w, grad_theta L_pre(theta; c_phi)>: the pullback of w to the designer.

    Args:
        problem: gives L_pre.
        theta: the estimator's own point, shaped like w.
        construction: c_phi(B), with its graph to phi.
        w: the direction in learner space, held constant.
        engine: `auto`, a name, or an engine.

    Returns:
        The gradient, shaped like phi; the learner's part; the engine with the reason for it.
    """
    product, chosen = mixed_product(problem, theta, construction, w, engine)
    return construction.pull(product.task), product, chosen


__all__ = [
    "DIFFERENCES",
    "ENGINES",
    "GRADIENT",
    "Chosen",
    "Engine",
    "FiniteDifference",
    "Forward",
    "Linear",
    "MixedProduct",
    "Passes",
    "Reverse",
    "attention_for",
    "choose_engine",
    "differenced",
    "mixed_product",
    "pull_back",
]
