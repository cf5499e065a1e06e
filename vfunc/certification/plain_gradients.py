"""Whether the plain gradients of both losses are their slopes: what every estimator builds on."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.precision import Asked, moved
from vfunc.certification.report import Row
from vfunc.certification.slopes import slope
from vfunc.problem import Task, feedback_gradient, pretrain_gradient
from vfunc.trees import Params


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
        g = gradient()
        along = direction_beside(g, generator)
        size = float(trees.norm(g))

        def at(step: float, loss: Any = loss, along: Params = along) -> Tensor:
            with torch.no_grad():
                return loss(moved(theta, step, along))

        measured = slope(
            at,
            enough=0.1 * asked.tolerance * size,
            first=asked.first_step,
            unit=asked.unit,
            measure_noise=not asked.double,
        )
        gap = abs(float(measured.value) - float(trees.dot(g, along)))
        size = max(size, abs(float(measured.value))) or 1.0
        subject = f"{name} is differentiable in theta"
        failed = gap > max(asked.tolerance * size, 5 * measured.error)
        note = _first_order_note(name, gap / size, loss, theta) if failed else ""
        verdict = "FAILED" if failed else "holds"
        yield Row(subject, verdict, gap=gap / size, resolution=measured.error / size, note=note)


def _first_order_note(name: str, gap: float, loss: Any, theta: Params) -> str:
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
    drawn = trees.scale(drawn, 1 / trees.norm(drawn))
    size = float(trees.norm(g))
    mixed = trees.axpy(1 / size, g, drawn) if 0 < size < math.inf else drawn
    return trees.scale(mixed, 1 / trees.norm(mixed))
