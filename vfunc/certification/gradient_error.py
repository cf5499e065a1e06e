"""Compares an estimate's gradient with measured slopes of its own objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vfunc import trees
from vfunc.certification.engines import differenced_bound
from vfunc.certification.promotion import Question, moved
from vfunc.certification.report import ZERO, Row, Verdict
from vfunc.certification.slopes import SAFETY, Slope, slope
from vfunc.certification.subjects import engines_named, same_objective
from vfunc.estimators import Estimator, held_at
from vfunc.problem import ValueEstimate
from vfunc.pullback import DIFFERENCES
from vfunc.trees import Params


@dataclass(frozen=True)
class Measured:
    """Slopes of an objective in a few directions.

    Attributes:
        directions: directions in phi, of norm 1.
        slopes: the objective's slope along each.
        objective: the objective's value at phi.
    """

    directions: Sequence[Params]
    slopes: Sequence[Slope]
    objective: float


def measure(
    estimator: Estimator,
    question: Question,
    estimate: ValueEstimate,
    directions: Sequence[Params],
    *,
    factor: float = 1.0,
) -> Measured:
    """Measures the slopes of an estimator's objective.

    Args:
        estimator: the estimator; two evaluations a finite difference, its adjoint cut short.
        question: the problem and its point.
        estimate: the estimate at phi.
        directions: directions in phi, of norm 1.
        factor: factor on the step sizes of the differences.
    """
    estimator = held_at(same_objective(estimator), question.problem, question.theta, question.phi)
    enough = question.enough * float(trees.norm(estimate.grad))
    slopes = [
        slope(
            lambda step, along=along: _objective(
                estimator, question, moved(question.phi, step, along)
            ),
            enough=enough,
            first=factor * question.first_step,
            unit=question.unit,
            measure_noise=not question.double,
        )
        for along in directions
    ]
    return Measured(directions, slopes, float(estimate.objective))


def _objective(estimator: Estimator, question: Question, phi: Params) -> Tensor:
    return estimator(question.problem, question.theta, phi).objective.detach()


def compare(subject: str, estimate: ValueEstimate, measured: Measured, question: Question) -> Row:
    """The verdict on one estimate's gradient.

    Exact needs both: a gap within the tolerance, and finite differences that are that good
    themselves. A gap beyond both is an error unless the estimate says that it approximates.
    """
    engine = engines_named(estimate)
    pairs = [
        (float(trees.dot(estimate.grad, d)), float(s.value), s.error)
        for d, s in zip(measured.directions, measured.slopes, strict=True)
    ]
    size = max(float(trees.norm(estimate.grad)), *(abs(slope) for _, slope, _ in pairs))
    if size == 0.0:
        return Row(subject, "exact", engine, 0.0, 0.0, ZERO)
    gap = max(abs(got - slope) for got, slope, _ in pairs) / size
    resolution = max(error for *_, error in pairs) / size
    wrong = any(
        abs(got - slope) > max(question.tolerance * size, SAFETY * error)
        for got, slope, error in pairs
    )
    cut = [phrase for phrase in estimate.approximations if not phrase.startswith(DIFFERENCES)]
    hessians = engines_named(estimate, "hessian_engine")
    differenced = "finite_difference" in f"{engine}, {hessians}".split(", ")
    verdict: Verdict
    if cut or (differenced and gap <= differenced_bound(question)):
        verdict, note = "approximate", "; ".join(estimate.approximations) or DIFFERENCES
    elif wrong:
        verdict, note = "FAILED", _how(pairs)
    elif gap <= question.tolerance and resolution <= question.tolerance:
        verdict, note = "exact", ""
    else:
        verdict, note = "inconclusive", "finite differences are not good enough to tell"
    return Row(subject, verdict, engine, gap, resolution, note)


def _how(pairs: Sequence[tuple[float, float, float]]) -> str:
    """The disagreement in words: a factor, where there is one."""
    got, slope, _ = max(pairs, key=lambda pair: abs(pair[0] - pair[1]))
    ratios = [g / s for g, s, e in pairs if abs(s) > 100 * e]
    if len(ratios) > 1 and max(ratios) - min(ratios) <= 1e-3 * abs(ratios[0]):
        return f"the gradient is {ratios[0]:.4g} times the objective's slope"
    return f"<grad, direction> is {got:.4g}, the objective's slope {slope:.4g}"
