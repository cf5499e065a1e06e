"""Compares an engine's products with differences of plain gradients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Question, moved
from vfunc.certification.slopes import SAFETY, slope
from vfunc.certification.stopped import StoppedHeld
from vfunc.problem import Construction, pretrain_gradient
from vfunc.pullback import Engine, mixed_product
from vfunc.pullback.engine import by_theta, joined
from vfunc.trees import Params

INNER, MIXED, HESSIAN = "<w, g_pre>", "the mixed product", "the Hessian product"


@dataclass(frozen=True)
class ProductError:
    """The error of one of the products that an engine returns.

    Attributes:
        name: the product's name.
        gap: relative error; that of <w, g_pre> relative to |w| |g_pre|.
        resolution: relative error of the finite differences it was compared with.
    """

    name: str
    gap: float
    resolution: float

    def wrong(self, tolerance: float) -> bool:
        """Whether it is off by more than the tolerance and than the differences themselves."""
        return self.gap > max(tolerance, SAFETY * self.resolution)


def check_product(
    question: Question,
    theta: Params,
    construction: Construction,
    w: Params,
    engine: Engine,
    *,
    hessian: bool = False,
    first: float = 0.1,
    enough: float = 0.0,
) -> list[ProductError]:
    """Compares all that an engine returns along w with plain gradients alone.

    An engine whose value and gradient are wrong alike (a wrong tangent, a sign in both) has an
    objective of its own making, and no slope of that objective shows it. So <w, g_pre> is compared
    with the plain gradient, and the mixed product (and H w) with central differences, along w, of
    plain gradients in the task (and in theta).

    Args:
        question: the problem, and the accuracy of its numbers.
        theta: the learner's parameters.
        construction: the task.
        w: the direction.
        engine: the engine.
        hessian: whether to check H w too.
        first: largest step of the differences, as |h w|.
        enough: relative error of the differences at which they stop.
    """
    problem, task, designed = question.problem, construction.task, construction.designed
    product = mixed_product(problem, theta, construction, w, engine, hessian=hessian)
    g_pre = pretrain_gradient(problem, theta, task)
    length = float(trees.norm(w)) or 1.0
    size = length * float(trees.norm(g_pre))
    apart = abs(float(product.inner) - float(trees.dot(w, g_pre)))
    errors = [ProductError(INNER, apart / size if size else 0.0, 10 * question.unit)]
    got = {MIXED: _flat(product.task, designed)} if designed else {}
    if hessian:
        assert product.hessian is not None
        got[HESSIAN] = _flat(product.hessian, theta)
    if not got:
        return errors
    # each in its own unit, so that the larger does not hide the smaller
    units = {name: _size(x) or 1.0 for name, x in got.items()}

    stopped = StoppedHeld() if question.stopped else None

    def gradients(step: float) -> Tensor:
        at, made = moved(theta, step, w), trees.leaves({n: task[n] for n in designed})
        at = trees.leaves(at) if hessian or stopped else at
        with torch.enable_grad():
            held = trees.leaves(theta) if hessian and problem.stop_gradient else {}

            def pretrain(at: Params) -> Tensor:
                return problem.pretrain(at, task | made, held or theta)

            loss = stopped(pretrain, at) if stopped else pretrain(at)
            found = trees.gradient(loss, joined(made, at if hessian else {}, held))
        flat = {
            MIXED: _flat({n: found[f"task {n}"] for n in designed}, designed) if designed else None,
            HESSIAN: _flat(by_theta(found, theta), theta) if hessian else None,
        }
        return torch.cat([x / units[name] for name, x in flat.items() if x is not None])

    if stopped:
        gradients(0.0)  # what is held constant is that at theta
    measured = slope(
        gradients,
        enough=enough,
        first=first / length,
        unit=question.unit,
        measure_noise=not question.double,
    )
    if not math.isfinite(measured.error):  # the plain gradients are not finite: nothing to hold
        return errors
    values = torch.split(measured.value, [len(x) for x in got.values()])
    for (name, mine), value in zip(got.items(), values, strict=True):
        apart = _size(mine / units[name] - value)
        if not math.isfinite(apart):
            errors.append(ProductError(name, math.inf, 0.0))
            continue
        size = max(_size(mine) / units[name], _size(value)) or 1.0
        errors.append(ProductError(name, apart / size, measured.error / size))
    return errors


def _flat(entries: Mapping[str, Tensor], names: Iterable[str]) -> Tensor:
    return torch.cat([entries[n].detach().double().reshape(-1) for n in names])


def _size(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x))
