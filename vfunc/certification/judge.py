"""The verdict on one estimator, once its engines are known to be right or wrong."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from vfunc import trees
from vfunc.certification.compare import Measured, compare, measure
from vfunc.certification.engines import engine_is_right
from vfunc.certification.plain_gradients import (
    KINKED,
    OTHER_STEPS,
    direction_beside,
    same_gap,
)
from vfunc.certification.promotion import Asked
from vfunc.certification.report import Row
from vfunc.certification.subjects import engines_named, engines_of, exact_sibling
from vfunc.errors import NotConvergedError, UserError
from vfunc.estimators import Estimator
from vfunc.problem import ValueEstimate, construct_task
from vfunc.pullback import Engine, mixed_product

NORMS = ("g_down_norm", "g_pre_norm")


def answer_of(estimator: Estimator, asked: Asked) -> ValueEstimate:
    """The estimate.

    Raises:
        UserError: it is no estimate of this problem's phi.
    """
    estimate = estimator(asked.problem, asked.theta, asked.phi)
    if not isinstance(estimate, ValueEstimate):
        raise UserError(
            f"the estimator returned a {type(estimate).__name__}; it has to return a ValueEstimate"
        )
    trees.require_same_structure("the estimate's grad", estimate.grad, asked.phi)
    return estimate


def judge(
    label: str,
    estimator: Estimator,
    estimate: ValueEstimate,
    asked: Asked,
    directions: int,
    generator: torch.Generator,
    shared: Measured | None = None,
    faults: Mapping[str, str] | None = None,
) -> tuple[Row, Measured | None]:
    """The verdict on one estimator.

    What it approximates by its own account is no licence: the same estimator with nothing cut
    short or replaced has to be right.

    Args:
        label: its name in the table.
        estimator: it.
        estimate: its answer to the question.
        asked: the question.
        directions: in phi.
        generator: of the directions.
        shared: slopes of an objective that may be the same.
        faults: what is wrong with engines, by name; those that are not named are right.

    Returns:
        The row, and the slopes, which may serve other engines and options.
    """
    broken = _not_finite(label, estimate) or _repeated(label, estimator, asked, estimate)
    if broken is not None:
        return broken, shared
    if shared is None or not _near(float(estimate.objective), shared.objective, 1e-9):
        drawn = [direction_beside(estimate.grad, generator) for _ in range(directions)]
        shared = measure(estimator, asked, estimate, drawn)
    row = compare(label, estimate, shared, asked)
    if row.verdict == "approximate":
        row = _beside_exact(row, estimator, asked, directions, generator, shared)
    elif row.verdict == "FAILED" and not _confirmed(estimator, estimate, asked, shared, generator):
        row = replace(row, verdict="inconclusive", note=KINKED)
    elif row.verdict == "FAILED":
        row = replace(
            row, note=_explained(row, estimator, estimate, asked, generator, faults or {})
        )
    return row, shared


def _not_finite(label: str, estimate: ValueEstimate) -> Row | None:
    """A failed row if there are no numbers to compare, with the names of what is not finite."""
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
    label: str, estimator: Estimator, asked: Asked, estimate: ValueEstimate
) -> Row | None:
    """A failed row if the same question gets another answer, or changes what it was asked of."""
    before = {n: x.clone() for n, x in (asked.theta | asked.phi).items()}
    again = estimator(asked.problem, asked.theta, asked.phi)
    engine = engines_named(estimate)
    if any(not torch.equal(x, before[n]) for n, x in (asked.theta | asked.phi).items()):
        return Row(label, "FAILED", engine, note="it changes theta or phi in place")
    apart = float(trees.norm(trees.axpy(-1.0, estimate.grad, again.grad)))
    size = float(trees.norm(estimate.grad))
    steady = _near(float(again.objective), float(estimate.objective), 1e3 * asked.unit)
    if steady and not apart > 1e3 * asked.unit * size:
        return None
    note = "asked the same again, it answers otherwise: take what is drawn from problem.seed"
    return Row(label, "FAILED", engine, apart / size if size else None, note=note)


def _beside_exact(
    row: Row,
    estimator: Estimator,
    asked: Asked,
    directions: int,
    generator: torch.Generator,
    shared: Measured,
) -> Row:
    """The row of what approximates, unless it is wrong without its approximations too."""
    sibling = exact_sibling(estimator)
    if sibling is None:
        return row
    try:
        answer = answer_of(sibling, asked)
        exact, _ = judge(row.subject, sibling, answer, asked, directions, generator, shared)
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
    asked: Asked,
    shared: Measured,
    generator: torch.Generator,
) -> bool:
    """Whether other steps show the same gap, and another direction one (`plain_gradients.hold`)."""
    gaps = [
        float(trees.dot(estimate.grad, d)) - float(s.value)
        for d, s in zip(shared.directions, shared.slopes, strict=True)
    ]
    worst = max(range(len(gaps)), key=lambda i: abs(gaps[i]))
    along = shared.directions[worst]
    again = measure(estimator, asked, estimate, [along], factor=OTHER_STEPS)
    gap = float(trees.dot(estimate.grad, along)) - float(again.slopes[0].value)
    other = measure(estimator, asked, estimate, [direction_beside(estimate.grad, generator)])
    return same_gap(gap, gaps[worst]) and all(
        compare("", estimate, measured, asked).verdict == "FAILED" for measured in (again, other)
    )


def _explained(
    row: Row,
    estimator: Estimator,
    estimate: ValueEstimate,
    asked: Asked,
    generator: torch.Generator,
    faults: Mapping[str, str],
) -> str:
    """Why a gradient is wrong: its engine's product, or else its own arithmetic."""
    said = f"{row.note}, wrong by {row.gap:.2g}"
    names = [name for name in engines_named(estimate).split(", ") if name]
    engines = {engine.name for engine in engines_of(estimator, estimate)}
    for name in names:
        if name in faults:
            return faults[name]
        if name not in engines:
            return (
                f"{said}; the engine {name!r} is not at hand to be checked apart: register it in "
                "vfunc.ENGINES, or give the estimator a field `engine` that holds it"
            )
    if not names:
        engine = _usual_engine(asked)
        found = engine_is_right(asked, engine, generator, hessian=False)
        if found.verdict == "FAILED":
            return found.note
        names = [engine.name]
    return (
        f"{said}; the engine ({', '.join(names)}) is right on this problem, so it is the "
        "estimator's own arithmetic"
    )


def _usual_engine(asked: Asked) -> Engine:
    """What `auto` takes: most likely that of an estimator that does not say."""
    construction = construct_task(asked.problem, asked.phi, asked.problem.batches[0])
    w = trees.zeros_like(asked.theta)
    return mixed_product(asked.problem, asked.theta, construction, w)[1].engine


def _near(a: float, b: float, tolerance: float) -> bool:
    return a == b or abs(a - b) <= tolerance * max(abs(a), abs(b))
