"""Checks an engine's products on a problem, before any estimate by it is trusted."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.certification.operations import operation_to_blame
from vfunc.certification.plain_gradients import (
    KINKED,
    OTHER_STEPS,
    direction_beside,
    same_gap,
)
from vfunc.certification.products import INNER, ProductError, check_product
from vfunc.certification.promotion import Question
from vfunc.certification.report import Row, Verdict
from vfunc.problem import Construction, construct_task, pretrain_gradient
from vfunc.pullback import Engine
from vfunc.pullback.graph import custom_functions
from vfunc.trees import Params

DIFFERENCED, DIFFERENCED_COARSELY = 1e-3, 5e-2
"""What the engine `finite_difference` may be off by, in float64 and in less."""


def differenced_bound(question: Question) -> float:
    """What the engine `finite_difference` may be off by."""
    return DIFFERENCED if question.double else DIFFERENCED_COARSELY


@dataclass(frozen=True)
class _Product:
    """An engine's product on the question's first batch."""

    question: Question
    construction: Construction
    engine: Engine
    hessian: bool

    @property
    def tolerance(self) -> float:
        differences = self.engine.name == "finite_difference"
        return differenced_bound(self.question) if differences else self.question.tolerance

    def errors(self, w: Params, factor: float = 1.0) -> list[ProductError]:
        """The errors of what it returns along w; `factor` scales the steps of the differences."""
        return check_product(
            self.question,
            self.question.theta,
            self.construction,
            w,
            self.engine,
            hessian=self.hessian,
            first=factor * self.question.first_step,
            enough=self.tolerance / 2,
        )

    def wrong(self, w: Params, name: str, factor: float = 1.0) -> ProductError | None:
        """The product of that name, if it is wrong along w."""
        found = (error for error in self.errors(w, factor) if error.name == name)
        return next((error for error in found if error.wrong(self.tolerance)), None)


def engine_is_right(
    question: Question, engine: Engine, generator: torch.Generator, *, hessian: bool
) -> Row:
    """Checks an engine's <w, g_pre>, mixed product and, with `hessian`, H w.

    Args:
        question: the problem and its point.
        engine: the engine; its name need not be registered.
        generator: source of the directions.
        hessian: whether an estimator takes the engine's Hessian products.

    Returns:
        A premise's row: `holds`, `FAILED` with what is to blame, or `inconclusive`.
    """
    construction = construct_task(question.problem, question.phi, question.problem.batches[0])
    g_pre = pretrain_gradient(question.problem, question.theta, construction.task)
    product = _Product(question, construction, engine, hessian)
    w = direction_beside(g_pre, generator)
    found = product.errors(w)
    wrong = [error for error in found if error.wrong(product.tolerance)]
    error = max(wrong or found, key=lambda error: error.gap)
    other = direction_beside(g_pre, generator)
    verdict: Verdict
    verdict, note = "holds", ""
    if not wrong:
        pass
    elif any(_confirmed(product, error, w, other) for error in wrong):
        verdict, note = "FAILED", _blamed(product, error, w, generator)
    else:
        verdict, note = "inconclusive", KINKED
    gap, resolution = error.gap, error.resolution
    return Row("the engine is right", verdict, engine.name, gap, resolution, note)


def _confirmed(product: _Product, error: ProductError, w: Params, other: Params) -> bool:
    """Whether other steps and another direction show it too (see `check_gradient`)."""
    if error.name == INNER or not math.isfinite(error.gap):
        return True
    again = product.wrong(w, error.name, OTHER_STEPS)
    also = product.wrong(other, error.name)
    return again is not None and also is not None and same_gap(error.gap, again.gap)


def _blamed(product: _Product, error: ProductError, w: Params, generator: torch.Generator) -> str:
    """Names what is wrong and where: an operation, a module or a custom function."""
    question, name = product.question, f"engine {product.engine.name!r}"
    if not math.isfinite(error.gap):
        return f"{name}: {error.name} is not finite"
    operation = operation_to_blame(question, product.engine, generator)
    if operation is not None:
        gap, where = operation
        return f"{name}: wrong by {gap:.2g} at {where}"
    message = f"{name}: wrong by {error.gap:.2g} in {error.name}"
    module = _module_to_blame(product, w, error.name)
    if module:
        return f"{message}, and only as to the learner's {module!r}: with w zero there it is right"
    with torch.enable_grad():
        loss = question.problem.pretrain(trees.leaves(question.theta), product.construction.task)
    custom = custom_functions([loss])
    functions = f" ({', '.join(custom)})" if custom else ""
    return (
        f"{message}, and no single operation of the loss shows it: look at custom autograd "
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
