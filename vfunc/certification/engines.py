"""Whether an engine is right on a problem, before any estimate by it is believed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.certification.operations import operation_to_blame
from vfunc.certification.plain_gradients import (
    KINKED,
    OTHER_STEPS,
    custom_functions,
    direction_beside,
    same_gap,
)
from vfunc.certification.products import INNER, Part, check_product
from vfunc.certification.promotion import Asked
from vfunc.certification.report import Row, Verdict
from vfunc.problem import Construction, construct_task, pretrain_gradient
from vfunc.pullback import Engine
from vfunc.trees import Params

DIFFERENCED, DIFFERENCED_COARSELY = 1e-3, 5e-2
"""What the engine `finite_difference` may be off by, in float64 and in less."""


def differenced_bound(asked: Asked) -> float:
    """What the engine `finite_difference` may be off by."""
    return DIFFERENCED if asked.double else DIFFERENCED_COARSELY


@dataclass(frozen=True)
class _Product:
    """An engine's product on the question's first batch."""

    asked: Asked
    construction: Construction
    engine: Engine
    hessian: bool

    @property
    def tolerance(self) -> float:
        differences = self.engine.name == "finite_difference"
        return differenced_bound(self.asked) if differences else self.asked.tolerance

    def parts(self, w: Params, factor: float = 1.0) -> list[Part]:
        """What it returns along w, with the steps of the differences times a factor."""
        return check_product(
            self.asked,
            self.asked.theta,
            self.construction,
            w,
            self.engine,
            hessian=self.hessian,
            first=factor * self.asked.first_step,
            enough=self.tolerance / 2,
        )

    def wrong(self, w: Params, name: str, factor: float = 1.0) -> Part | None:
        """The part of that name, if it is wrong along w."""
        found = (part for part in self.parts(w, factor) if part.name == name)
        return next((part for part in found if part.wrong(self.tolerance)), None)


def engine_is_right(
    asked: Asked, engine: Engine, generator: torch.Generator, *, hessian: bool
) -> Row:
    """<w, g_pre>, the mixed product and (if asked for) H w of an engine, at the question's point.

    Args:
        asked: the question.
        engine: whose product; its name may be any.
        generator: of the directions.
        hessian: whether an estimator takes its Hessian products.

    Returns:
        A premise's row: `holds`, `FAILED` with what is to blame, or `inconclusive`.
    """
    construction = construct_task(asked.problem, asked.phi, asked.problem.batches[0])
    g_pre = pretrain_gradient(asked.problem, asked.theta, construction.task)
    product = _Product(asked, construction, engine, hessian)
    w = direction_beside(g_pre, generator)
    found = product.parts(w)
    wrong = [part for part in found if part.wrong(product.tolerance)]
    part = max(wrong or found, key=lambda part: part.gap)
    other = direction_beside(g_pre, generator)
    verdict: Verdict
    verdict, note = "holds", ""
    if not wrong:
        pass
    elif any(_confirmed(product, part, w, other) for part in wrong):
        verdict, note = "FAILED", _blamed(product, part, w, generator)
    else:
        verdict, note = "inconclusive", KINKED
    gap, resolution = part.gap, part.resolution
    return Row("the engine is right", verdict, engine.name, gap, resolution, note)


def _confirmed(product: _Product, part: Part, w: Params, other: Params) -> bool:
    """Whether other steps and another direction say the same (see `plain_gradients.hold`)."""
    if part.name == INNER or not math.isfinite(part.gap):
        return True
    again = product.wrong(w, part.name, OTHER_STEPS)
    also = product.wrong(other, part.name)
    return again is not None and also is not None and same_gap(part.gap, again.gap)


def _blamed(product: _Product, part: Part, w: Params, generator: torch.Generator) -> str:
    """What is wrong and where: an operation, a module or a custom function, if one shows it."""
    asked, name = product.asked, f"engine {product.engine.name!r}"
    if not math.isfinite(part.gap):
        return f"{name}: {part.name} is not finite"
    operation = operation_to_blame(asked, product.engine, generator)
    if operation is not None:
        gap, where = operation
        return f"{name}: wrong by {gap:.2g} at {where}"
    said = f"{name}: wrong by {part.gap:.2g} in {part.name}"
    module = _module_to_blame(product, w, part.name)
    if module:
        return f"{said}, and only as to the learner's {module!r}: with w zero there it is right"
    custom = custom_functions(
        lambda: asked.problem.pretrain_loss(trees.leaves(asked.theta), product.construction.task)
    )
    functions = f" ({', '.join(custom)})" if custom else ""
    return (
        f"{said}, and no single operation of the loss shows it: look at custom autograd "
        f"functions{functions} and at what recomputes under functional_call (gradient "
        "checkpointing)"
    )


def _module_to_blame(product: _Product, w: Params, name: str) -> str:
    """The innermost module outside of which the engine is right; "" if there is none.

    An engine's product is linear in w: with w zero outside a module, only the errors that it
    makes along that module's parameters are left.
    """

    def wrong(prefix: str) -> bool:
        inside = {n: x if _within(n, prefix) else torch.zeros_like(x) for n, x in w.items()}
        return product.wrong(inside, name) is not None

    prefix = ""
    while True:
        below = dict.fromkeys(_child(n, prefix) for n in w if _within(n, prefix) and n != prefix)
        guilty = [child for child in below if wrong(child)]
        if len(guilty) != 1:
            return "" if all(_within(n, prefix) for n in w) else prefix
        (prefix,) = guilty


def _within(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(f"{prefix}.")


def _child(name: str, prefix: str) -> str:
    """The next longer prefix on the way from `prefix` to `name`."""
    rest = name[len(prefix) + 1 :] if prefix else name
    head = rest.partition(".")[0]
    return f"{prefix}.{head}" if prefix else head
