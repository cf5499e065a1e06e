"""Measures what an estimate loses on a part of the micro-batch, or of the feedback.

Each part is compared with the whole on several micro-batches, each with a feedback batch of its
own: the cosine of the two gradients in phi, how the two objectives correlate from one micro-batch
to the next, and the time that it takes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators import Estimator
from vfunc.language.data.examples import first_rows
from vfunc.language.workload import LanguageWorkload
from vfunc.problem import ValueEstimate, ValueProblem
from vfunc.studies.training_bench import Spread, seconds_of
from vfunc.training.arm_run import ArmRun
from vfunc.training.step import value_problem

SHARES = (2, 4, 8)
"""The whole is divided by each."""


@dataclass(frozen=True)
class Fidelity:
    """An estimate on a part, beside that on the whole.

    Attributes:
        part: what it is of, in words.
        cosine: of the gradients in phi, where both are there; None where they never are.
        undirected: micro-batches of which one of the two gradients is zero: they have no cosine.
        correlation: of the objectives over micro-batches; None where there are fewer than three,
            or where one of the two is constant.
        time: seconds over those of the whole.
    """

    part: str
    cosine: Spread | None
    undirected: int
    correlation: float | None
    time: Spread


def fidelity(run: ArmRun, estimator: Estimator, draws: int) -> list[Fidelity]:
    """Measure parts of the micro-batch and of the feedback batch.

    Args:
        run: an arm with a designer, at the state that is asked about.
        estimator: of the next step.
        draws: how many micro-batches, each with its own feedback batch.

    Returns:
        A row for each part.

    Raises:
        UserError: it is no run on text, or domains divide its batches already.
    """
    workload = run.workload
    if not isinstance(workload, LanguageWorkload):
        raise UserError("--part fidelity is for --modality language")
    if workload.tasks.combine == "matched":
        raise UserError("--part fidelity divides batches, and so does --feedback-combine matched")
    parts = _parts(workload)
    asked: dict[str, _Part | None] = {"": None, **parts}
    found: dict[str, list[tuple[ValueEstimate, float]]] = {name: [] for name in asked}
    designer, theta = run.state.designer, run.state.functional.theta
    assert designer is not None
    phi = trees.detach(dict(designer.named_parameters()))
    estimator(_problem(run, 0, None), theta, phi)  # the first looks at the functions
    for k in range(draws):
        for name, part in asked.items():
            problem = _problem(run, k, part)
            answers: list[ValueEstimate] = []
            seconds = seconds_of(
                lambda problem=problem, answers=answers: answers.append(
                    estimator(problem, theta, phi)
                ),
                workload.device,
            )
            found[name].append((answers[0], seconds))
    whole = found.pop("")
    return [compared(name, whole, part) for name, part in found.items()]


@dataclass(frozen=True)
class _Part:
    """A share of a micro-batch's sequences, of their tokens, and of a feedback batch's examples."""

    sequences: int
    examples: int
    tokens: int | None = None


def _parts(workload: LanguageWorkload) -> dict[str, _Part]:
    size, examples = workload.batch_size, workload.feedback_batch_size
    named = {
        f"{size // n} of {size} sequences": _Part(size // n, examples)
        for n in SHARES
        if size // n >= 1
    }
    longest = workload.data.stream.batch(0, size).tokens.shape[1]
    named |= {
        f"{longest // n} of {longest} tokens of each": _Part(size, examples, longest // n)
        for n in SHARES
        if longest // n >= 2
    }
    return named | {
        f"{examples // n} of {examples} feedback examples": _Part(size, examples // n)
        for n in SHARES
        # whole shares alone: the first of them is then a part of the whole
        if examples % n == 0 and examples // n >= 1
    }


def _problem(run: ArmRun, k: int, part: _Part | None) -> ValueProblem:
    """The next step's value problem on the k-th micro-batch from now, or on a part of it."""
    workload, at = run.workload, run.state.counters.micro_batch
    assert isinstance(workload, LanguageWorkload)
    whole = replace(workload, meta_batch_size=workload.batch_size, meta_seq_len=None)
    observed = whole.look_ahead(run.state.learner, whole.batch(at + k), estimated=run.estimated)
    if part is None:
        return value_problem(replace(run, workload=whole), (observed,), k)
    some = replace(whole, feedback_batch_size=part.examples)
    # the k-th feedback batch begins where it does for the whole
    index = k * (workload.feedback_batch_size // part.examples)
    taken = first_rows(observed, part.sequences)
    taken = taken if part.tokens is None else taken.first_tokens(part.tokens)
    return value_problem(replace(run, workload=some), (taken,), index)


def compared(
    name: str,
    whole: Sequence[tuple[ValueEstimate, float]],
    part: Sequence[tuple[ValueEstimate, float]],
) -> Fidelity:
    """A part beside the whole.

    Args:
        name: the part, in words.
        whole: estimates on all of each micro-batch, and their seconds.
        part: the same on the part.
    """
    every = [
        float(trees.cosine(one.grad, all_.grad))
        for (one, _), (all_, _) in zip(part, whole, strict=True)
    ]
    cosines = [cosine for cosine in every if not math.isnan(cosine)]
    times = [one / all_ for (_, one), (_, all_) in zip(part, whole, strict=True)]
    objectives = [[float(e.objective) for e, _ in side] for side in (whole, part)]
    correlation = None
    if len(part) > 2 and all(statistics.pstdev(side) > 0 for side in objectives):
        correlation = statistics.correlation(*objectives)
    return Fidelity(
        name,
        Spread.of(cosines) if cosines else None,
        len(every) - len(cosines),
        correlation,
        Spread.of(times),
    )
