"""Checks that the plain gradients of both losses are their slopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Question, moved
from vfunc.certification.report import Row, Verdict
from vfunc.certification.slopes import SAFETY, slope
from vfunc.certification.stopped import (
    REMEDY,
    OtherPathError,
    StoppedHeld,
    first_stopped,
)
from vfunc.problem import Task, construct_task, feedback_gradient, pretrain_gradient
from vfunc.pullback.graph import custom_functions
from vfunc.trees import Params

OTHER_STEPS = 0.7
"""Factor on the steps of a second measurement: no power of two, so that no step repeats."""

SAME = 0.5
"""Largest relative difference between two measurements of the same gap."""

KINKED = "finite differences of other steps disagree with the first: a kink is near"


THETA_ALONE = (
    "holds constant what depends on theta and not on phi (a stop-gradient): the learner's step "
    "takes it so, and so does the engine reverse in first_order and in one step of unrolled; "
    "second derivatives in theta lack it, and unrolled with K >= 2, implicit and the other engines "
    f"refuse. For these {REMEDY}"
)
"""What a stop-gradient in theta alone means."""


@dataclass(frozen=True)
class GradientCheck:
    """The result of comparing a gradient with finite differences.

    Attributes:
        verdict: `holds`, `FAILED`, or `inconclusive` where the differences do not agree among
            themselves, as at a kink.
        gap: relative error of the gradient.
        resolution: relative error of the differences.
    """

    verdict: Verdict
    gap: float
    resolution: float


def check_gradient(
    value_at: Callable[[float, Params], Tensor],
    g: Params,
    question: Question,
    draw: torch.Generator,
) -> GradientCheck:
    """Checks that g is the gradient of a function.

    The error that differences estimate of themselves takes the function for smooth. A ReLU's
    kink within the steps makes it too small, so a gap counts if other steps along the same
    direction show the same one, and a second direction shows one too.

    Args:
        value_at: (step, direction) -> the function's value there, a scalar.
        g: the claimed gradient.
        question: source of step sizes and tolerance.
        draw: source of directions.
    """

    def differences(along: Params, factor: float = 1.0) -> tuple[float, float, bool]:
        measured = slope(
            lambda step: value_at(step, along),
            enough=question.enough * float(trees.norm(g)),
            first=factor * question.first_step,
            unit=question.unit,
            measure_noise=not question.double,
        )
        gap = float(measured.value) - float(trees.dot(g, along))
        size = max(float(trees.norm(g)), abs(float(measured.value))) or 1.0
        wrong = abs(gap) > max(question.tolerance * size, SAFETY * measured.error)
        return gap / size, measured.error / size, wrong

    along = direction_beside(g, draw)
    gap, resolution, wrong = differences(along)
    if not math.isfinite(gap):
        return GradientCheck("FAILED", math.inf, resolution)
    if not wrong:
        return GradientCheck("holds", abs(gap), resolution)
    again, _, still = differences(along, OTHER_STEPS)
    _, _, also = differences(direction_beside(g, draw))
    same = still and also and same_gap(again, gap)
    return GradientCheck("FAILED" if same else "inconclusive", abs(gap), resolution)


def same_gap(a: float, b: float) -> bool:
    """Whether two measurements along one direction show the same gap."""
    return abs(a - b) < SAME * max(abs(a), abs(b))


def gradients(
    question: Question, theta: Params, task: Task, generator: torch.Generator
) -> Iterator[Row]:
    """Compares plain gradients of both losses with their slopes, away from the live parameters.

    Theta's, and that of L_pre in the entries of the task that phi makes. What L_pre holds constant
    of theta alone is a remark: the learner's own step takes it so.
    """
    in_the_task: Row | None = None
    for row in _in_theta(question, theta, task, generator):
        if row.verdict == "FAILED" and row.subject.startswith("pretrain_loss"):
            in_the_task = gradient_in_the_task(question, theta, task, generator)
            alone = in_the_task.verdict == "holds"
            yield _as_remark(row, question, theta, task, generator, alone=alone)
        else:
            yield row
    yield in_the_task or gradient_in_the_task(question, theta, task, generator)


def _as_remark(
    row: Row,
    question: Question,
    theta: Params,
    task: Task,
    generator: torch.Generator,
    *,
    alone: bool,
) -> Row:
    """The failed row of L_pre in theta, as a remark where stop-gradients alone explain it.

    With what they hold kept where it is, slopes are the plain gradient. Where they are not, a
    function with a wrong derivative is to blame, whatever is detached beside it.

    Args:
        row: the row.
        question: the problem.
        theta: the point.
        task: the task.
        generator: source of the directions.
        alone: whether nothing that phi makes is held constant.
    """
    problem, leaves = question.problem, trees.leaves(theta)

    def loss(theta_: Params) -> Tensor:
        return problem.pretrain(theta_, task, theta)

    stopped = first_stopped(lambda: loss(leaves), leaves.values())
    if not stopped:
        return row
    held, g = StoppedHeld(), pretrain_gradient(problem, theta, task)

    def at(step: float, along: Params) -> Tensor:
        return held(loss, trees.leaves(moved(theta, step, along))).detach()

    try:
        at(0.0, theta)
        check = check_gradient(at, g, question, generator)
    except OtherPathError:
        return row
    if check.verdict == "holds" and alone:
        return replace(row, verdict="holds", note=f"pretrain_loss: {stopped} {THETA_ALONE}")
    with torch.enable_grad():
        custom = custom_functions([loss(leaves)])
    if check.verdict == "FAILED" and custom:
        wrong = _wrong("pretrain_loss", "theta", row.gap or 0.0)
        return replace(row, note=_to_blame(wrong, custom))
    return row


def _in_theta(
    question: Question, theta: Params, task: Task, generator: torch.Generator
) -> Iterator[Row]:
    problem = question.problem
    losses: dict[str, tuple[Callable[[Params], Tensor], Callable[[], Params]]] = {
        "pretrain_loss": (
            lambda t: problem.pretrain(t, task, theta),
            lambda: pretrain_gradient(problem, theta, task),
        ),
        "feedback_loss": (problem.feedback_loss, lambda: feedback_gradient(problem, theta)[1]),
    }
    for name, (loss, gradient) in losses.items():

        def at(step: float, along: Params, loss: Any = loss) -> Tensor:
            with torch.enable_grad():
                return loss(moved(theta, step, along)).detach()

        check = check_gradient(at, gradient(), question, generator)
        note = KINKED if check.verdict == "inconclusive" else ""
        if check.verdict == "FAILED":
            leaves = trees.leaves(theta)
            note = _note(
                name, "theta", check.gap, lambda at=leaves, loss=loss: loss(at), leaves.values()
            )
        subject = f"{name} is differentiable in theta"
        yield Row(subject, check.verdict, "", check.gap, check.resolution, note)


def gradient_in_the_task(
    question: Question, theta: Params, task: Task, generator: torch.Generator
) -> Row:
    """Compares the plain gradient of L_pre in what phi makes of the task with its slope."""
    problem, subject = question.problem, "pretrain_loss is differentiable in the task"
    designed = construct_task(problem, question.phi, problem.batches[0]).designed
    made = {n: task[n] for n in designed if bool(torch.isfinite(task[n]).all())}
    if not made:
        return Row(subject, "holds")

    def loss(made: Params) -> Tensor:
        return problem.pretrain(theta, task | made, theta)

    def at(step: float, along: Params) -> Tensor:
        with torch.enable_grad():
            return loss(moved(made, step, along)).detach()

    leaves = trees.leaves(made)
    with torch.enable_grad():
        g = trees.gradient(loss(leaves), leaves)
    check = check_gradient(at, g, question, generator)
    note = KINKED if check.verdict == "inconclusive" else ""
    if check.verdict == "FAILED":
        names = f"the task's {' and '.join(map(repr, made))}"
        note = _note("pretrain_loss", names, check.gap, lambda: loss(leaves), leaves.values())
    return Row(subject, check.verdict, "", check.gap, check.resolution, note)


def _note(
    name: str, what: str, gap: float, loss: Callable[[], Tensor], leaves: Iterable[Tensor]
) -> str:
    """Why a plain gradient is not a slope: a stop-gradient, or else a function of its own."""
    if not math.isfinite(gap):
        return f"{name}: its value or its plain gradient in {what} is not finite"
    wrong = _wrong(name, what, gap)
    stopped = first_stopped(loss, leaves)
    if stopped:
        return f"{wrong}: {stopped} holds constant what depends on it (a stop-gradient); {REMEDY}"
    with torch.enable_grad():
        return _to_blame(wrong, custom_functions([loss()]))


def _wrong(name: str, what: str, gap: float) -> str:
    return f"{name}: its plain gradient in {what} is not its slope, wrong by {gap:.2g}"


def _to_blame(wrong: str, custom: list[str]) -> str:
    likely = f"the autograd function {custom[0]}" if custom else "gradient checkpointing"
    return (
        f"{wrong}; look at {likely}, and at what recomputes under functional_call, after the "
        "parameters are back"
    )


def direction_beside(g: Params, generator: torch.Generator) -> Params:
    """A random direction of norm 1, half of it along g.

    A purely random direction in many dimensions sees next to nothing of a gradient's size.
    """
    noise = trees.normal_like(g, generator)
    # on g's side, so that in one dimension the halves do not cancel
    side = -1.0 if float(trees.dot(noise, g)) < 0 else 1.0
    noise = trees.scale(noise, side / trees.norm(noise))
    size = float(trees.norm(g))
    mixed = trees.axpy(1 / size, g, noise) if 0 < size < math.inf else noise
    return trees.scale(mixed, 1 / trees.norm(mixed))
