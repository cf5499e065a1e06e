"""Certifies estimators: every gradient against central differences of its own objective."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from vfunc.certification.adam_moments import with_smooth_adam
from vfunc.certification.engines import engine_is_right
from vfunc.certification.gradient_error import Measured
from vfunc.certification.judge import answer_of, judge
from vfunc.certification.plain_gradients import THETA_ALONE
from vfunc.certification.premises import premises
from vfunc.certification.promotion import Question, most_exact
from vfunc.certification.report import ZERO, Certification, Row
from vfunc.certification.rules import rule_is_right, step_is_live
from vfunc.certification.steadiness import beginning
from vfunc.certification.subjects import (
    Subject,
    all_subjects,
    engines_named,
    engines_of,
    label_of,
    takes_hessians,
)
from vfunc.errors import (
    CertificationError,
    NonFiniteError,
    NotConvergedError,
    UserError,
    VfuncError,
)
from vfunc.estimators import Estimator, make_estimator
from vfunc.problem import ValueEstimate, ValueProblem, entry
from vfunc.pullback import ENGINES
from vfunc.pullback.stop_gradients import is_stop_gradient
from vfunc.trees import Params
from vfunc.typecheck import typed

WITHOUT_MEANS = "the problem holds no means of the stream's gradients to take out"


@entry
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
    optimizer: torch.optim.Optimizer | None = None,
    parameters: Mapping[str, Tensor] | None = None,
) -> Certification:
    """Compares value gradients with central finite differences of their own objectives.

    First the premises: the problem's functions repeat themselves, its tasks do not depend
    differentiably on the learner, its designer is cut off nowhere, its declared forms are its
    loss, its plain gradients are slopes, and the engines' products are those of plain gradients.
    Then each estimator's <grad, direction> against Ridders' extrapolated differences, whose own
    error is estimated, so that a verdict is honest (see `Row`). What is approximate by its own
    account has to be right without what it approximates. Everything is computed in float64,
    closures and frozen parameters included, where the learner's code allows; the table says where
    it does not. Nothing that is passed in changes, random states included.

    Of a problem of several processes this one's part is certified, by itself: the sums over
    processes are taken outside of all that can be wrong here.

    A problem holds functions, and no point: theta and phi say where it is asked, as they do for an
    estimator. The check costs about ten estimates a direction: give it small batches.

    Args:
        problem: the value problem.
        theta: the learner's parameters in S.
        phi: the designer's parameters.
        estimator: an estimator or a registered name; None certifies all registered ones by all
            engines, and skips what the problem does not support.
        directions: number of random directions in phi, each half along the gradient.
        seed: seed of the directions.
        quiet: if set, the table is not printed.
        optimizer: the learner's live optimizer: the problem's rule and state are held against a
            step of a copy of it. None leaves that out.
        parameters: the live parameters in S by name, which the optimizer holds.

    Returns:
        The verdicts, none of which is a failure.

    Raises:
        CertificationError: something failed. The message names the engine and the operation or
            the module that breaks it, the function that does not repeat itself, or what else is
            wrong.
        UserError: the estimator does not apply to this problem.
    """
    if directions < 1:
        raise UserError(f"directions must be at least 1, not {directions}")
    if (optimizer is None) != (parameters is None):
        raise UserError("certify takes optimizer and parameters together: the live ones")
    problem = problem.for_one_process()
    generator = torch.Generator().manual_seed(seed)
    with _random_states_kept():
        begun = beginning(problem, theta, phi)
        question = most_exact(problem, theta, phi)
        begun = begun.with_question(question)
        rows, notes = list(_all_premises(problem, theta, phi, question, generator)), ()
        if not _failed(rows):
            easier, note = with_smooth_adam(question.problem, question.theta, question.phi)
            question, notes = replace(question, problem=easier), (note,) if note else ()
            if optimizer is not None and parameters is not None:
                rows.append(replace(step_is_live(problem, optimizer, parameters), premise=True))
        if not _failed(rows):
            rows.append(replace(rule_is_right(question, generator), premise=True))
        if not _failed(rows):
            stopped = next((row.note for row in rows if THETA_ALONE in row.note), "")
            question = replace(question, stopped=stopped)
            asked = _Asked(problem, theta, phi, question, directions, generator)
            if estimator is None:
                rows += _engines(asked)
                faults = {row.engine: row.note for row in rows if row.verdict == "FAILED"}
                rows += _all(asked, faults)
            else:
                one = make_estimator(estimator) if isinstance(estimator, str) else estimator
                rows += _one(asked, one)
        if not (rows and rows[0].verdict == "FAILED"):  # else it does not even repeat itself
            changed = begun.row(_failed(rows))
            rows = [changed, *rows] if changed is not None else rows
    return _concluded(rows, question, notes, every=estimator is None, quiet=quiet)


@dataclass(frozen=True)
class _Asked:
    """What is certified: the problem as it was passed in, and in the precision of the check."""

    problem: ValueProblem
    theta: Params
    phi: Params
    question: Question
    directions: int
    generator: torch.Generator

    def with_stopped(self, row: Row) -> Row:
        """The row of a wrong estimator, with what the loss holds constant as the likely reason."""
        wrong = row.verdict == "FAILED" and self.question.stopped
        return replace(row, note=f"{row.note}; {self.question.stopped}") if wrong else row

    def as_it_runs(self, estimator: Estimator) -> Estimator:
        """The estimator by the engine that it takes outside of the check.

        The check's float64 makes torch leave the fused kernels of its encoder layers, for instance:
        what `auto` finds there may not run otherwise.

        Raises:
            UserError: it does not run as it is.
        """
        # copies: an estimator that writes to what it is given is found later
        theta, phi = ({n: x.clone() for n, x in at.items()} for at in (self.theta, self.phi))
        try:
            usual = estimator(self.problem, theta, phi)
        except (NotConvergedError, NonFiniteError):
            return estimator  # the check has an answer to that
        engine = engines_named(usual) if isinstance(usual, ValueEstimate) else ""
        automatic = is_dataclass(estimator) and getattr(estimator, "engine", None) == "auto"
        if not automatic or engine not in ENGINES:
            return estimator
        named = cast("Estimator", replace(cast("Any", estimator), engine=engine))
        try:
            return (
                named if engines_named(answer_of(estimator, self.question)) != engine else estimator
            )
        except VfuncError:
            return named


def _failed(rows: list[Row]) -> bool:
    return any(row.verdict == "FAILED" for row in rows)


def _all_premises(
    problem: ValueProblem,
    theta: Params,
    phi: Params,
    question: Question,
    generator: torch.Generator,
) -> Iterator[Row]:
    """The premises of the question and of each domain, up to the first that fails."""
    for where, given, part in _with_domains(problem, question):
        for row in premises(given, theta, phi, part, generator):
            yield replace(row, subject=where + row.subject, premise=True)
            if row.verdict == "FAILED":
                return


def _one(asked: _Asked, estimator: Estimator) -> list[Row]:
    """Judges one estimator, its engines first."""
    question, generator = asked.question, asked.generator
    label, rows = label_of(estimator), list[Row]()
    with _as_row(label, rows, stopped=question.stopped):
        given = asked.as_it_runs(estimator)
        answer = answer_of(given, question)
        request = question.request(hessian=True)
        for engine in engines_of(given, answer):
            hessian = takes_hessians(given, answer, engine, request) and not question.stopped
            row = engine_is_right(question, engine, generator, hessian=hessian)
            rows.append(replace(row, premise=True))
            if row.verdict == "FAILED":
                return rows
        verdict, _ = judge(label, given, answer, question, asked.directions, generator)
        rows.append(asked.with_stopped(verdict))
    return rows


def _with_domains(
    problem: ValueProblem, question: Question
) -> Iterator[tuple[str, ValueProblem, Question]]:
    """The question, then each domain's: a label, the problem as passed in, the question."""
    yield "", problem, question
    for name, given in problem.domains.items():
        yield f"{name}: ", given, replace(question, problem=question.problem.domains[name])


def _concluded(
    rows: list[Row], question: Question, notes: tuple[str, ...], *, every: bool, quiet: bool
) -> Certification:
    """Prints the verdicts and returns them; raises if one failed, or if none says anything."""
    found = Certification(tuple(rows), question.precision, notes)
    if not quiet:
        print(found)
    if found.failed:
        first, more = found.failed[0], len(found.failed) - 1
        also = f" (and {more} more rows failed)" if more else ""
        about = "" if first.premise else f"{first.subject}: "
        raise CertificationError(f"{about}{first.note}{also}", found)
    if every and not found.certified:
        notes_of = [row.note for row in found.estimators if row.note]
        why = next((note for note in notes_of if note != ZERO), "")
        if ZERO in notes_of:
            why = f"{ZERO}: what phi makes of the task changes no step along g_down"
        raise CertificationError(f"nothing was certified: {why or 'no estimator applies'}", found)
    return found


def _engines(asked: _Asked) -> Iterator[Row]:
    """Checks every engine that applies, apart from any estimator."""
    question, generator = asked.question, asked.generator
    request, with_hessians = question.request(hessian=False), question.request(hessian=True)
    for name, engine in ENGINES.items():
        if engine.refusal(request) is not None:
            continue  # the estimators' rows say so
        if question.problem.no_second_order is not None and engine.differentiates_attention:
            continue
        rows: list[Row] = []
        with _as_row("the engine is right", rows, name, skip=True):
            hessian = engine.refusal(with_hessians) is None and not question.stopped
            rows.append(engine_is_right(question, engine, generator, hessian=hessian))
        yield from (replace(row, premise=True) for row in rows)


def _all(asked: _Asked, faults: Mapping[str, str]) -> Iterator[Row]:
    """Judges every registered estimator by every engine; skips what the problem cannot serve."""
    question, measured = asked.question, list[Measured | None]([None])

    def judged(label: str, estimator: Estimator) -> Row:
        given = asked.as_it_runs(estimator)
        answer = answer_of(given, question)
        row, measured[0] = judge(
            label, given, answer, question, asked.directions, asked.generator, measured[0], faults
        )
        return asked.with_stopped(row)

    for subject in all_subjects():
        if not isinstance(subject, Subject):
            yield Row(subject[0], "skipped", note=subject[1])
            continue
        if getattr(subject.estimator, "running_means", 0) and not question.problem.means:
            yield Row(subject.label, "skipped", note=WITHOUT_MEANS)
            continue
        for engine in subject.engines or ("",):
            rows: list[Row] = []
            with _as_row(subject.label, rows, engine, skip=True):
                given = subject.with_engine(engine) if engine else subject.estimator
                rows.append(judged(subject.label, given))
            yield from rows


@contextlib.contextmanager
def _as_row(
    label: str, rows: list[Row], engine: str = "", *, skip: bool = False, stopped: str = ""
) -> Iterator[None]:
    """Turns an estimate that fails into a row; with `skip`, whatever the error.

    With `stopped`, what the loss holds constant, a refusal because of that is a failure.
    """
    try:
        yield
    except NotConvergedError as error:
        rows.append(Row(label, "not converged", engine, note=str(error)))
    except NonFiniteError as error:
        rows.append(Row(label, "FAILED", engine, note=str(error)))
    except Exception as error:
        if stopped and is_stop_gradient(error):
            rows.append(Row(label, "FAILED", engine, note=stopped))
            return
        if not skip:
            raise
        message = str(error).strip().partition("\n")[0]
        rows.append(Row(label, "skipped", engine, note=message or type(error).__name__))


@contextlib.contextmanager
def _random_states_kept() -> Iterator[None]:
    """Restores the global random states afterwards, whatever a user's functions sample."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (a user's may use it)
    try:
        with torch.random.fork_rng():
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
