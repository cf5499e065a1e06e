"""`certify`: every gradient against central differences of its own objective."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch

from vfunc import trees
from vfunc.certification.compare import Measured, compare, engines_named, measure
from vfunc.certification.operations import blame
from vfunc.certification.precision import Asked, most_exact
from vfunc.certification.premises import premises
from vfunc.certification.report import Certification, Row
from vfunc.certification.smoothing import smoothed
from vfunc.certification.subjects import (
    Subject,
    all_subjects,
    engines_of,
    label_of,
    tighter,
)
from vfunc.errors import CertificationError, NotConvergedError, UserError
from vfunc.estimators import Estimator, make_estimator
from vfunc.problem import ValueEstimate, ValueProblem, construct_task
from vfunc.pullback import Engine, mixed_product
from vfunc.trees import Params
from vfunc.typecheck import typed


@typed
def certify(
    problem: ValueProblem,
    theta: Params,
    phi: Params,
    estimator: Estimator | str | None = None,
    *,
    directions: int = 3,
    seed: int = 0,
    quiet: bool = False,
) -> Certification:
    """Hold value gradients against central finite differences of their own objectives.

    First the premises: the problem's functions repeat themselves, its tasks do not depend
    differentiably on the learner, its declared forms are its loss, its plain gradients are slopes.
    Then each estimator's <grad, direction> against Ridders' extrapolated differences, whose own
    error is estimated, so that a verdict is honest (see `Row`). Everything is computed in float64,
    closures and frozen parameters included, where the learner's code allows; the table says where
    it does not. Nothing that is passed in changes, random states included.

    A problem holds functions, and no point: theta and phi say where it is asked, as they do for an
    estimator. The check costs about ten estimates a direction: give it small batches.

    Args:
        problem: the question.
        theta: the learner's parameters in S.
        phi: the designer's parameters.
        estimator: what to certify, or a registered name; None goes through all registered ones
            by all engines, and skips what the problem cannot serve.
        directions: in phi, random, each half along the gradient.
        seed: of the directions.
        quiet: whether not to print the table.

    Returns:
        The verdicts; nothing among them failed.

    Raises:
        CertificationError: something failed. The message names the engine and the operation that
            breaks it, the function that does not repeat itself, or what else is wrong.
        UserError: the estimator does not apply to this problem.
    """
    if directions < 1:
        raise UserError(f"directions must be at least 1, not {directions}")
    generator = torch.Generator().manual_seed(seed)
    with _random_states_kept():
        asked = most_exact(problem, theta, phi)
        rows: list[Row] = []
        for where, given, part in _with_domains(problem, asked):
            for row in premises(given, theta, phi, part, generator):
                rows.append(replace(row, subject=where + row.subject))
                if row.verdict == "FAILED":
                    return _concluded(rows, asked, (), "", quiet=quiet)
        easier, note = smoothed(asked.problem, asked.theta, asked.phi)
        asked = replace(asked, problem=easier)
        if estimator is None:
            rows += _all(asked, directions, generator)
        else:
            given = make_estimator(estimator) if isinstance(estimator, str) else estimator
            with _as_row(label_of(given), rows):
                rows.append(_one(label_of(given), given, asked, directions, generator)[0])
    failed = next((row.subject for row in rows if row.verdict == "FAILED"), "")
    return _concluded(rows, asked, (note,) if note else (), f"{failed}: ", quiet=quiet)


def _with_domains(problem: ValueProblem, asked: Asked) -> Iterator[tuple[str, ValueProblem, Asked]]:
    """The question, and domain by domain where it is asked so: where, as it came, as certified."""
    yield "", problem, asked
    for name, given in problem.domains.items():
        yield f"{name}: ", given, replace(asked, problem=asked.problem.domains[name])


def _concluded(
    rows: list[Row], asked: Asked, notes: tuple[str, ...], about: str, *, quiet: bool
) -> Certification:
    """The verdicts, printed; raises if one failed, `about` being what the message begins with."""
    found = Certification(tuple(rows), asked.precision, notes)
    if not quiet:
        print(found)
    if found.failed:
        first, more = found.failed[0], len(found.failed) - 1
        also = f" (and {more} more rows failed)" if more else ""
        raise CertificationError(f"{about}{first.note}{also}", found)
    return found


def _all(asked: Asked, directions: int, generator: torch.Generator) -> Iterator[Row]:
    """Every registered estimator by every engine; what cannot be asked of the problem skipped."""
    for subject in all_subjects():
        if not isinstance(subject, Subject):
            yield Row(subject[0], "skipped", note=subject[1])
            continue
        rows: list[Row] = []
        with _as_row(subject.label, rows, skip=True):
            row, measured = _one(subject.label, subject.estimator, asked, directions, generator)
            if not subject.engines:
                rows.append(row)
            for engine in subject.engines:
                with _as_row(subject.label, rows, engine, skip=True):
                    row, _ = _one(
                        subject.label, subject.by(engine), asked, directions, generator, measured
                    )
                    rows.append(row)
        yield from rows


@contextlib.contextmanager
def _as_row(label: str, rows: list[Row], engine: str = "", *, skip: bool = False) -> Iterator[None]:
    """Report an estimate that cannot be had as a row; with `skip` whatever the reason."""
    try:
        yield
    except NotConvergedError as error:
        rows.append(Row(label, "inconclusive", engine, note=str(error)))
    except Exception as error:
        if not skip:
            raise
        said = str(error).strip().partition("\n")[0]
        rows.append(Row(label, "skipped", engine, note=said or type(error).__name__))


def _one(
    label: str,
    estimator: Estimator,
    asked: Asked,
    directions: int,
    generator: torch.Generator,
    shared: Measured | None = None,
) -> tuple[Row, Measured]:
    """The verdict on one estimator, and the slopes, which serve its other engines too."""
    estimate = estimator(asked.problem, asked.theta, asked.phi)
    if not isinstance(estimate, ValueEstimate):
        raise UserError(
            f"the estimator returned a {type(estimate).__name__}; it has to return a ValueEstimate"
        )
    trees.require_same_structure("the estimate's grad", estimate.grad, asked.phi)
    if shared is None or not _near(float(estimate.objective), shared.objective, 1e-9):
        shared = measure(estimator, asked, estimate, directions, generator)
    row = _repeated(label, estimator, asked, estimate) or compare(label, estimate, shared, asked)
    solved = tighter(estimator) if row.verdict == "FAILED" else None
    if solved is not None:
        exact, _ = _one(label, solved, asked, directions, generator)
        if exact.verdict == "exact":
            note = f"its systems are solved to --solver-tolerance; exact at {exact.gap:.0e}"
            return replace(row, verdict="approximate", note=note), shared
    if row.verdict == "FAILED":
        row = replace(row, note=_explained(row, estimator, estimate, asked, generator))
    return row, shared


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


def _explained(
    row: Row,
    estimator: Estimator,
    estimate: ValueEstimate,
    asked: Asked,
    generator: torch.Generator,
) -> str:
    """Why a gradient is wrong: an operation that its engine breaks at, or its own arithmetic."""
    if row.gap is None or row.resolution is None:
        return row.note
    engines = engines_of(estimator, row.engine)
    if not engines:
        engines = [_usual_engine(asked)]
    for engine in engines:
        found = blame(asked, engine, generator)
        if found is not None and found.operation is not None:
            return f"engine {engine.name!r}: wrong by {found.gap:.2g} at {found.operation}"
        if found is not None:
            return (
                f"engine {engine.name!r}: wrong by {found.gap:.2g}, and no single operation of the "
                "loss shows it: look at what recomputes under functional_call (gradient "
                "checkpointing) and at custom autograd functions"
            )
    names = ", ".join(engine.name for engine in engines)
    return (
        f"{row.note}, wrong by {row.gap:.2g}; the engine ({names}) is right on this problem, so it "
        "is the estimator's own arithmetic"
    )


def _usual_engine(asked: Asked) -> Engine:
    """What `auto` takes: most likely that of an estimator that does not say."""
    construction = construct_task(asked.problem, asked.phi, asked.problem.batches[0])
    w = trees.zeros_like(asked.theta)
    return mixed_product(asked.problem, asked.theta, construction, w)[1].engine


def _near(a: float, b: float, tolerance: float) -> bool:
    return a == b or abs(a - b) <= tolerance * max(abs(a), abs(b))


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    """Whatever a user's functions draw, the generators are afterwards as they were before."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (a user's may use it)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
