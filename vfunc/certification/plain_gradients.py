"""Checks that the plain gradients of both losses are their slopes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Question, moved
from vfunc.certification.report import Row, Verdict
from vfunc.certification.slopes import SAFETY, slope
from vfunc.problem import Task, feedback_gradient, pretrain_gradient
from vfunc.pullback.graph import custom_functions
from vfunc.trees import Params

OTHER_STEPS = 0.7
"""Factor on the steps of a second measurement: no power of two, so that no step repeats."""

SAME = 0.5
"""Largest relative difference between two measurements of the same gap."""

KINKED = "finite differences of other steps disagree with the first: a kink is near"


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
    """Compares plain gradients of both losses with their slopes, away from the live parameters."""
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
            with torch.no_grad():
                return loss(moved(theta, step, along))

        check = check_gradient(at, gradient(), question, generator)
        note = KINKED if check.verdict == "inconclusive" else ""
        if check.verdict == "FAILED":
            note = _first_order_note(name, check.gap, loss, theta)
        subject = f"{name} is differentiable in theta"
        yield Row(subject, check.verdict, "", check.gap, check.resolution, note)


def _first_order_note(name: str, gap: float, loss: Any, theta: Params) -> str:
    if not math.isfinite(gap):
        return f"{name}: its value or its plain gradient in theta is not finite"
    with torch.enable_grad():
        custom = custom_functions([loss(trees.leaves(theta))])
    likely = f"the autograd function {custom[0]}" if custom else "gradient checkpointing"
    return (
        f"{name}: its plain gradient in theta is not its slope, wrong by {gap:.2g}; look at "
        f"{likely}, and at what recomputes under functional_call, after the parameters are back"
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
