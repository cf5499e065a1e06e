"""Which engine: the one that is asked for, or the one that `auto` takes, and why."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vfunc.errors import UserError
from vfunc.pullback.engine import Engine, ProductRequest
from vfunc.pullback.finite_difference import FiniteDifference
from vfunc.pullback.forward import Forward
from vfunc.pullback.linear import Linear
from vfunc.pullback.missing import KINDS, MissingDerivativeError
from vfunc.pullback.reverse import Reverse

ENGINES: dict[str, Engine] = {
    engine.name: engine for engine in (Linear(), Forward(), Reverse(), FiniteDifference())
}
"""The engines by name; `auto` chooses among them."""

COARSE = 1e-4
"""Round-off above which finite differences are not taken unasked: bfloat16's and float16's.

Their gradients are a tenth off there, or are refused.
"""


@dataclass(frozen=True)
class Chosen:
    """An engine, and why it is the one."""

    engine: Engine
    why: str


def choose_engine(engine: str | Engine, request: ProductRequest) -> Chosen:
    """The engine that an option names, or the one that `auto` takes.

    `auto` takes, in this order:

    1. `finite_difference` where the learner's kernels have neither a forward mode nor a double
       backward (`no_second_order`): it alone applies. In bfloat16 and float16 it has to be asked
       for.
    2. `linear` where the objective is linear in what the designer makes: one tangent pass, no
       backward, no graph.
    3. `reverse`, exact for every operation with a double backward. Measured against `forward` on
       the joint pass that gives the Hessian product too (a Qwen2 of 0.34M parameters, one thread,
       torch 2.15): 0.79 to 0.91 of the time and 0.56 to 0.67 of the peak memory, at S = all,
       last:2 and last:1. It watches what its forward saves, which is S's alone: layers below S
       carry no graph. Where the rest would not fit the device, `finite_difference` takes over
       (`after_short_memory`), which needs a plain gradient's memory.

    Args:
        engine: `auto`, an engine's name, or an engine.
        request: what it is for.

    Returns:
        The engine and the reason.

    Raises:
        UserError: the name is unknown, the engine does not apply to this problem, or none does
            well enough to be taken unasked.
    """
    if engine == "auto":
        return _automatic(request)
    asked = _known(engine) if isinstance(engine, str) else engine
    if isinstance(asked, type) or not isinstance(asked, Engine):
        raise UserError(
            f"{asked!r} is no engine; give auto, one of {', '.join(ENGINES)}, or an object with a "
            "name, differentiates_attention, refusal and __call__"
        )
    refusal, kernels = asked.refusal(request), request.problem.no_second_order
    if refusal is None and asked.differentiates_attention and kernels is not None:
        refusal = f"{kernels}; finite_difference does"
    if refusal is not None:
        raise UserError(f"the engine {asked.name!r} does not apply here: {refusal}")
    return Chosen(asked, "asked for")


def _automatic(request: ProductRequest) -> Chosen:
    kernels = request.problem.no_second_order
    if kernels is not None:
        if request.round_off > COARSE:
            raise UserError(
                f"engine auto: {kernels}, and finite differences at a round-off of "
                f"{request.round_off:.0e} are up to a tenth off; take attention eager or sdpa, or "
                "float32, or ask for the engine finite_difference"
            )
        return Chosen(ENGINES["finite_difference"], f"auto: {kernels}")
    refusal = ENGINES["linear"].refusal(request)
    if refusal is None:
        return Chosen(ENGINES["linear"], "auto: the objective is linear in the targets")
    return Chosen(Reverse(watch_memory=True), f"auto: linear does not apply ({refusal})")


def _known(name: str) -> Engine:
    if name not in ENGINES:
        raise UserError(f"unknown engine {name!r}; known: auto, {', '.join(ENGINES)}")
    return ENGINES[name]


def after_short_memory(chosen: Chosen, short: str, round_off: float) -> Chosen:
    """What `auto` takes where `reverse` has found that it would not fit.

    Args:
        chosen: what it took.
        short: what is lacking, in words.
        round_off: the coarsest of the dtypes that the loss goes through.

    Returns:
        `finite_difference`; in bfloat16 or float16, where rounding would swamp it, `reverse` all
        the same, without a watch.
    """
    if round_off > COARSE:
        eps = torch.finfo(torch.float32).eps
        return Chosen(
            ENGINES["reverse"],
            f"{chosen.why}; {short}, but finite differences need a round-off near {eps:.0e}, "
            f"not {round_off:.0e}",
        )
    return Chosen(ENGINES["finite_difference"], f"{chosen.why}, and {short}")


def after_missing(
    chosen: Chosen, missing: MissingDerivativeError, request: ProductRequest
) -> Chosen:
    """What `auto` takes where an operation lacks a derivative that its engine needs.

    `reverse` where `linear` has failed, then `forward`, then `finite_difference`, which needs plain
    gradients alone.

    Args:
        chosen: what has failed.
        missing: how.
        request: what it is for.

    Returns:
        The next engine, and why.

    Raises:
        MissingDerivativeError: there is none left.
        UserError: only `finite_difference` is left, in a precision too coarse to take it unasked.
    """
    order = ["linear", "reverse", "forward", "finite_difference"]
    rest = order[order.index(chosen.engine.name) + 1 :] if chosen.engine.name in order else []
    if not rest:
        raise missing
    name = rest[0]
    if name == "finite_difference" and request.round_off > COARSE:
        raise UserError(
            f"engine auto: {missing.operation or 'an operation of the learner'} lacks the "
            f"derivatives of the exact engines ({missing.said}), and finite differences at a "
            f"round-off of {request.round_off:.0e} are up to a tenth off; take float32, or ask for "
            "the engine finite_difference"
        ) from missing
    lacks = f"{missing.operation or 'an operation'} lacks {KINDS[chosen.engine.name]}"
    if not missing.operation:
        lacks += f": {missing.said}"
    return Chosen(ENGINES[name], f"{chosen.why}; {chosen.engine.name} does not ({lacks})")
