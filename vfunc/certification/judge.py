"""Judges one estimator, once its engines are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from vfunc import trees
from vfunc.certification.engines import engine_is_right
from vfunc.certification.gradient_error import Measured, compare, measure
from vfunc.certification.plain_gradients import (
    KINKED,
    OTHER_STEPS,
    direction_beside,
    same_gap,
)
from vfunc.certification.promotion import Question
from vfunc.certification.report import Row
from vfunc.certification.subjects import engines_named, engines_of, exact_sibling
from vfunc.errors import NotConvergedError, UserError
from vfunc.estimators import Estimator
from vfunc.problem import ValueEstimate, construct_task
from vfunc.pullback import ENGINES, Engine, mixed_product

NORMS = ("g_down_norm", "g_pre_norm")


def answer_of(estimator: Estimator, question: Question) -> ValueEstimate:
    """The estimator's estimate at the question's point.

    Raises:
        UserError: the result is no estimate of this problem's phi.
    """
    estimate = estimator(question.problem, question.theta, question.phi)
    if not isinstance(estimate, ValueEstimate):
        raise UserError(
            f"the estimator returned a {type(estimate).__name__}; it has to return a ValueEstimate"
        )
    trees.require_same_structure("the estimate's grad", estimate.grad, question.phi)
    return estimate


def judge(
    label: str,
    estimator: Estimator,
    estimate: ValueEstimate,
    question: Question,
    directions: int,
    generator: torch.Generator,
    shared: Measured | None = None,
    faults: Mapping[str, str] | None = None,
) -> tuple[Row, Measured | None]:
    """Judges one estimator.

    An estimator that declares an approximation has to be right without it: with nothing cut
    short or replaced.

    Args:
        label: the estimator's name in the table.
        estimator: the estimator.
        estimate: its estimate at the question's point.
        question: the problem and its point.
        directions: number of directions in phi.
        generator: source of the directions.
        shared: slopes measured before, reused if the objective is the same.
        faults: messages about wrong engines, by engine; engines without one are right.

    Returns:
        The row, and the slopes, for reuse with other engines and options.
    """
    broken = _not_finite(label, estimate) or _repeated(label, estimator, question, estimate)
    if broken is not None:
        return broken, shared
    if shared is None or not _near(float(estimate.objective), shared.objective, 1e-9):
        sampled = [direction_beside(estimate.grad, generator) for _ in range(directions)]
        shared = measure(estimator, question, estimate, sampled)
    row = compare(label, estimate, shared, question)
    if row.verdict == "approximate":
        row = _beside_exact(row, estimator, question, directions, generator, shared)
    elif row.verdict == "FAILED" and not _confirmed(
        estimator, estimate, question, shared, generator
    ):
        row = replace(row, verdict="inconclusive", note=KINKED)
    elif row.verdict == "FAILED":
        row = replace(
            row, note=_explained(row, estimator, estimate, question, generator, faults or {})
        )
    return row, shared


def _not_finite(label: str, estimate: ValueEstimate) -> Row | None:
    """A failed row that names what is not finite, if anything is not."""
    scalars = {"objective": estimate.objective, "value": estimate.value}
    wrong = [n for n, x in scalars.items() if not torch.isfinite(x)]
    wrong += [f"grad of {n!r}" for n, x in estimate.grad.items() if not torch.isfinite(x).all()]
    if not wrong:
        return None
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    norms = [n.removesuffix("_norm") for n in NORMS if estimate.diagnostics.get(n) == 0]
    why = f"; {' and '.join(norms)} is zero and has no direction" if norms else ""
    note = f"not finite: {', '.join(wrong[:3])}{more}{why}"
    return Row(label, "FAILED", engines_named(estimate), note=note)


def _repeated(
    label: str, estimator: Estimator, question: Question, estimate: ValueEstimate
) -> Row | None:
    """A failed row if a second estimate differs, or changes theta or phi in place."""
    before = {n: x.clone() for n, x in (question.theta | question.phi).items()}
    again = estimator(question.problem, question.theta, question.phi)
    engine = engines_named(estimate)
    if any(not torch.equal(x, before[n]) for n, x in (question.theta | question.phi).items()):
        return Row(label, "FAILED", engine, note="it changes theta or phi in place")
    apart = float(trees.norm(trees.axpy(-1.0, estimate.grad, again.grad)))
    size = float(trees.norm(estimate.grad))
    steady = _near(float(again.objective), float(estimate.objective), 1e3 * question.unit)
    if steady and not apart > 1e3 * question.unit * size:
        return None
    note = "asked the same again, it answers otherwise: take what is drawn from problem.seed"
    return Row(label, "FAILED", engine, apart / size if size else None, note=note)


def _beside_exact(
    row: Row,
    estimator: Estimator,
    question: Question,
    directions: int,
    generator: torch.Generator,
    shared: Measured,
) -> Row:
    """The row of an approximation, unless the estimator is wrong without it too."""
    sibling = exact_sibling(estimator)
    if sibling is None:
        return row
    try:
        answer = answer_of(sibling, question)
        exact, _ = judge(row.subject, sibling, answer, question, directions, generator, shared)
    except (UserError, NotConvergedError) as error:
        note = f"{row.note}; without that it could not be certified: {error}"
        return replace(row, note=note)
    if exact.verdict == "FAILED":
        return replace(exact, note=f"also without what it approximates, {exact.note}")
    gap = "" if exact.gap is None else f" at {exact.gap:.0e}"
    return replace(row, note=f"{row.note}; {exact.verdict}{gap} without that")


def _confirmed(
    estimator: Estimator,
    estimate: ValueEstimate,
    question: Question,
    shared: Measured,
    generator: torch.Generator,
) -> bool:
    """Whether other steps show the same gap, and another direction one (`check_gradient`)."""
    gaps = [
        float(trees.dot(estimate.grad, d)) - float(s.value)
        for d, s in zip(shared.directions, shared.slopes, strict=True)
    ]
    worst = max(range(len(gaps)), key=lambda i: abs(gaps[i]))
    along = shared.directions[worst]
    again = measure(estimator, question, estimate, [along], factor=OTHER_STEPS)
    gap = float(trees.dot(estimate.grad, along)) - float(again.slopes[0].value)
    other = measure(estimator, question, estimate, [direction_beside(estimate.grad, generator)])
    return same_gap(gap, gaps[worst]) and all(
        compare("", estimate, measured, question).verdict == "FAILED" for measured in (again, other)
    )


def _explained(
    row: Row,
    estimator: Estimator,
    estimate: ValueEstimate,
    question: Question,
    generator: torch.Generator,
    faults: Mapping[str, str],
) -> str:
    """Says why a gradient is wrong: its engine's product, or else its own arithmetic."""
    message = f"{row.note}, wrong by {row.gap:.2g}"
    names = [name for name in engines_named(estimate).split(", ") if name]
    engines = {engine.name for engine in engines_of(estimator, estimate)}
    for name in names:
        if name in faults:
            return faults[name]
        if name not in engines:
            return (
                f"{message}; the engine {name!r} is not at hand to be checked apart: register it "
                "in vfunc.ENGINES, or give the estimator a field `engine` that holds it"
            )
    if not names:
        engine = _usual_engine(question)
        found = engine_is_right(question, engine, generator, hessian=False)
        if found.verdict == "FAILED":
            return found.note
        names = [engine.name]
    return (
        f"{message}; the engine ({', '.join(names)}) is right on this problem, so it is the "
        "estimator's own arithmetic"
    )


def _usual_engine(question: Question) -> Engine:
    """The engine that `auto` takes, for an estimator that does not name its own."""
    construction = construct_task(question.problem, question.phi, question.problem.batches[0])
    w = trees.zeros_like(question.theta)
    return ENGINES[mixed_product(question.problem, question.theta, construction, w).engine]


def _near(a: float, b: float, tolerance: float) -> bool:
    return a == b or abs(a - b) <= tolerance * max(abs(a), abs(b))
