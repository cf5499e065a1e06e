"""Whether the plain gradients of both losses are their slopes: what every estimator builds on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Asked, moved
from vfunc.certification.report import Row, Verdict
from vfunc.certification.slopes import SAFETY, slope
from vfunc.problem import Task, feedback_gradient, pretrain_gradient
from vfunc.trees import Params

OTHER_STEPS = 0.7
"""Factor on the steps of a second look: halving steps never meet it."""

SAME = 0.5
"""Two looks show the same gap if they differ by less than this share of it."""

KINKED = "finite differences of other steps disagree with the first: a kink is near"


@dataclass(frozen=True)
class Held:
    """A gradient held against finite differences.

    Attributes:
        verdict: `holds`, `FAILED`, or `inconclusive` where the differences do not agree among
            themselves, as at a kink.
        gap: relative.
        resolution: how good the differences are, relative.
    """

    verdict: Verdict
    gap: float
    resolution: float


def hold(
    value_at: Callable[[float, Params], Tensor], g: Params, asked: Asked, draw: torch.Generator
) -> Held:
    """Whether g is the gradient of a function.

    The error that differences estimate of themselves takes the function for smooth. A ReLU's
    kink within the steps makes it too small, so a gap counts if other steps along the same
    direction show the same one, and a second direction shows one too.

    Args:
        value_at: (step, direction) -> the function there, a scalar.
        g: what is said to be its gradient.
        asked: gives steps and tolerance.
        draw: of directions.
    """

    def differences(along: Params, factor: float = 1.0) -> tuple[float, float, bool]:
        measured = slope(
            lambda step: value_at(step, along),
            enough=asked.enough * float(trees.norm(g)),
            first=factor * asked.first_step,
            unit=asked.unit,
            measure_noise=not asked.double,
        )
        gap = float(measured.value) - float(trees.dot(g, along))
        size = max(float(trees.norm(g)), abs(float(measured.value))) or 1.0
        wrong = abs(gap) > max(asked.tolerance * size, SAFETY * measured.error)
        return gap / size, measured.error / size, wrong

    along = direction_beside(g, draw)
    gap, resolution, wrong = differences(along)
    if not math.isfinite(gap):
        return Held("FAILED", math.inf, resolution)
    if not wrong:
        return Held("holds", abs(gap), resolution)
    again, _, still = differences(along, OTHER_STEPS)
    _, _, also = differences(direction_beside(g, draw))
    same = still and also and same_gap(again, gap)
    return Held("FAILED" if same else "inconclusive", abs(gap), resolution)


def same_gap(a: float, b: float) -> bool:
    """Whether two looks at one direction show the same gap."""
    return abs(a - b) < SAME * max(abs(a), abs(b))


def gradients(asked: Asked, theta: Params, task: Task, generator: torch.Generator) -> Iterator[Row]:
    """Plain gradients of both losses are their slopes, away from the learner's own parameters."""
    problem = asked.problem
    losses: dict[str, tuple[Callable[[Params], Tensor], Callable[[], Params]]] = {
        "pretrain_loss": (
            lambda t: problem.pretrain_loss(t, task),
            lambda: pretrain_gradient(problem, theta, task),
        ),
        "feedback_loss": (problem.feedback_loss, lambda: feedback_gradient(problem, theta)[1]),
    }
    for name, (loss, gradient) in losses.items():

        def at(step: float, along: Params, loss: Any = loss) -> Tensor:
            with torch.no_grad():
                return loss(moved(theta, step, along))

        held = hold(at, gradient(), asked, generator)
        note = KINKED if held.verdict == "inconclusive" else ""
        if held.verdict == "FAILED":
            note = _first_order_note(name, held.gap, loss, theta)
        subject = f"{name} is differentiable in theta"
        yield Row(subject, held.verdict, "", held.gap, held.resolution, note)


def _first_order_note(name: str, gap: float, loss: Any, theta: Params) -> str:
    if not math.isfinite(gap):
        return f"{name}: its value or its plain gradient in theta is not finite"
    custom = custom_functions(lambda: loss(trees.leaves(theta)))
    likely = f"the autograd function {custom[0]}" if custom else "gradient checkpointing"
    return (
        f"{name}: its plain gradient in theta is not its slope, wrong by {gap:.2g}; look at "
        f"{likely}, and at what recomputes under functional_call, after the parameters are back"
    )


def custom_functions(function: Callable[[], Tensor]) -> list[str]:
    """Names of the `torch.autograd.Function`s of other authors that a graph goes through."""
    with torch.enable_grad():
        pending = [function().grad_fn]
    found, seen = [], set()
    while pending:
        node = pending.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if isinstance(node, torch.autograd.function.BackwardCFunction):
            found.append(type(node).__name__.removesuffix("Backward"))
        pending += [parent for parent, _ in node.next_functions]
    return list(dict.fromkeys(found))


def direction_beside(g: Params, generator: torch.Generator) -> Params:
    """A random direction of norm 1, half of it along g.

    A purely random direction in many dimensions sees next to nothing of a gradient's size.
    """
    drawn = trees.normal_like(g, generator)
    # on g's side, so that in one dimension the halves do not cancel
    side = -1.0 if float(trees.dot(drawn, g)) < 0 else 1.0
    drawn = trees.scale(drawn, side / trees.norm(drawn))
    size = float(trees.norm(g))
    mixed = trees.axpy(1 / size, g, drawn) if 0 < size < math.inf else drawn
    return trees.scale(mixed, 1 / trees.norm(mixed))
