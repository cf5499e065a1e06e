"""An estimate's gradient against the slope of its own objective."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.plain_gradients import direction_beside
from vfunc.certification.precision import Asked, moved
from vfunc.certification.report import Row
from vfunc.certification.slopes import Slope, slope
from vfunc.estimators import Estimator
from vfunc.problem import ValueEstimate
from vfunc.pullback import DIFFERENCES
from vfunc.trees import Params

DIFFERENCED, DIFFERENCED_COARSELY = 1e-3, 5e-2
"""What the engine `finite_difference` may be off by, in float64 and in less."""

SAFETY = 5.0
"""A gap of so many estimated errors of the finite differences is no error of theirs."""


@dataclass(frozen=True)
class Measured:
    """Slopes of an objective in a few directions.

    Attributes:
        directions: in phi, of norm 1.
        slopes: of the objective along them.
        objective: its value at phi.
    """

    directions: Sequence[Params]
    slopes: Sequence[Slope]
    objective: float


def measure(
    estimator: Estimator,
    asked: Asked,
    estimate: ValueEstimate,
    count: int,
    generator: torch.Generator,
) -> Measured:
    """The slopes of an estimator's objective, in directions half of which lie along its gradient.

    Args:
        estimator: evaluated twice for each finite difference.
        asked: the question.
        estimate: the estimate at phi.
        count: directions.
        generator: of the directions.
    """
    directions = [direction_beside(estimate.grad, generator) for _ in range(count)]
    enough = 0.1 * asked.tolerance * float(trees.norm(estimate.grad))
    slopes = []
    for along in directions:

        def at(step: float, along: Params = along) -> Tensor:
            phi = moved(asked.phi, step, along)
            return estimator(asked.problem, asked.theta, phi).objective.detach()

        slopes.append(
            slope(
                at,
                enough=enough,
                first=asked.first_step,
                unit=asked.unit,
                measure_noise=not asked.double,
            )
        )
    return Measured(directions, slopes, float(estimate.objective))


def compare(subject: str, estimate: ValueEstimate, measured: Measured, asked: Asked) -> Row:
    """The verdict on one estimate's gradient.

    Exact needs both: a gap within the tolerance, and finite differences that are that good
    themselves. A gap beyond both is an error unless the estimate says that it approximates.
    """
    engine = engines_named(estimate)
    if not trees.is_finite(estimate.grad) or not math.isfinite(measured.objective):
        return Row(subject, "FAILED", engine, note="the gradient or the objective is not finite")
    pairs = [
        (float(trees.dot(estimate.grad, d)), float(s.value), s.error)
        for d, s in zip(measured.directions, measured.slopes, strict=True)
    ]
    size = max(float(trees.norm(estimate.grad)), *(abs(slope) for _, slope, _ in pairs))
    if size == 0.0:
        return Row(subject, "exact", engine, 0.0, 0.0, "gradient and slope are zero")
    gap = max(abs(got - slope) for got, slope, _ in pairs) / size
    resolution = max(error for *_, error in pairs) / size
    wrong = any(
        abs(got - slope) > max(asked.tolerance * size, SAFETY * error)
        for got, slope, error in pairs
    )
    others = [x for x in estimate.approximations if not x.startswith(DIFFERENCES)]
    reasons = [*others, *_differenced(estimate, gap, asked)]
    if reasons:
        verdict, note = "approximate", "; ".join(reasons)
    elif wrong:
        verdict, note = "FAILED", _how(pairs)
    elif gap <= asked.tolerance and resolution <= asked.tolerance:
        verdict, note = "exact", ""
    else:
        verdict, note = "inconclusive", "finite differences are not good enough to tell"
    return Row(subject, verdict, engine, gap, resolution, note)  # type: ignore[arg-type]


def engines_named(estimate: ValueEstimate, key: str = "engine") -> str:
    """The engines in an estimate's diagnostics, those of its domains (`domain/engine`) too."""
    said = [str(x) for k, x in estimate.diagnostics.items() if k.rpartition("/")[2] == key]
    return ", ".join(dict.fromkeys(name for names in said for name in names.split(", ")))


def _differenced(estimate: ValueEstimate, gap: float, asked: Asked) -> list[str]:
    """Says that the engine approximates, as long as it is as good as it should be."""
    engines = engines_named(estimate) + engines_named(estimate, "hessian_engine")
    bound = DIFFERENCED if asked.double else DIFFERENCED_COARSELY
    if gap > bound or "finite_difference" not in engines:
        return []
    return [x for x in estimate.approximations if x.startswith(DIFFERENCES)] or [DIFFERENCES]


def _how(pairs: Sequence[tuple[float, float, float]]) -> str:
    """The disagreement in words: a factor, where there is one."""
    got, slope, _ = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    ratios = [g / s for g, s, e in pairs if abs(s) > 100 * e]
    if len(ratios) > 1 and max(ratios) - min(ratios) <= 1e-3 * abs(ratios[0]):
        return f"the gradient is {ratios[0]:.4g} times the objective's slope"
    return f"<grad, direction> is {got:.4g}, the objective's slope {slope:.4g}"
