"""The mixed Hessian-vector product that takes a direction in learner space to the designer.

grad_phi < w , grad_theta L_pre(theta; c_phi(B_u)) >, w held constant: an engine computes its
learner part, `pull_back` adds the plain vector-Jacobian product through the designer. Engines are
interchangeable and equal to rounding (`finite_difference`: to its truncation error).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch.nn.attention import SDPBackend, sdpa_kernel

from vfunc.errors import UserError
from vfunc.problem import Construction, LinearForm, ValueProblem
from vfunc.pullback.engine import GRADIENT, Engine, MixedProduct, Passes
from vfunc.pullback.finite_difference import FiniteDifference
from vfunc.pullback.forward import Forward
from vfunc.pullback.linear import Linear
from vfunc.pullback.reverse import Reverse
from vfunc.trees import Params
from vfunc.typecheck import typed

ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (Linear(), Forward(), Reverse(), FiniteDifference())
}
"""The engines by name; `auto` chooses among them."""


@dataclass(frozen=True)
class Chosen:
    """An engine, and why it is the one."""

    engine: Engine
    why: str


def choose_engine(
    engine: str | Engine,
    linear: LinearForm | None,
    designed: tuple[str, ...],
    *,
    hessian: bool = False,
) -> Chosen:
    """The engine that an option names, or the one that `auto` takes.

    `auto` takes `linear` where the objective is linear in what the designer makes (one tangent
    pass, no backward), else `reverse` (as fast as `forward` and lighter in memory when measured,
    and every operation that has a double backward is exact in it).

    Args:
        engine: `auto`, an engine's name, or an engine.
        linear: the problem's linear form, if it has one.
        designed: the entries of the task that depend on phi.
        hessian: whether the Hessian-vector product is wanted too.

    Returns:
        The engine and the reason.

    Raises:
        UserError: the name is unknown, or the engine does not apply to this problem.
    """
    if engine == "auto":
        refusal = ENGINES["linear"].refusal(linear, designed, hessian=hessian)
        if refusal is None:
            return Chosen(ENGINES["linear"], "auto: the objective is linear in the targets")
        return Chosen(ENGINES["reverse"], f"auto: linear does not apply ({refusal})")
    if isinstance(engine, str):
        if engine not in ENGINES:
            raise UserError(f"unknown engine {engine!r}; known: auto, {', '.join(ENGINES)}")
        engine = ENGINES[engine]
    refusal = engine.refusal(linear, designed, hessian=hessian)
    if refusal is not None:
        raise UserError(f"the engine {engine.name!r} does not apply here: {refusal}")
    return Chosen(engine, "asked for")


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
) -> tuple[MixedProduct, Chosen]:
    """The learner's part: grad_c <w, g_pre>, and H w if asked for.

    Args:
        problem: gives L_pre.
        theta: the point, shaped like w.
        construction: the task at that point, and which of its entries phi makes.
        w: the direction in learner space, held constant.
        engine: `auto`, a name, or an engine.
        hessian: whether H w is wanted too.

    Returns:
        The product, and the engine with the reason for it.

    Raises:
        UserError: the engine is unknown or does not apply.
    """
    chosen = choose_engine(engine, problem.linear, construction.designed, hessian=hessian)
    with attention_for(chosen.engine):
        product = chosen.engine(
            problem, theta, construction.task, construction.designed, w, hessian=hessian
        )
    return product, chosen


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
    "mixed_product",
    "pull_back",
]
