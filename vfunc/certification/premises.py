"""What every estimator takes for granted of a problem, checked on the problem itself.

Each check returns a `Row`, and raises nothing; `certify` stops at the first that fails, since no
slope means anything after it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.calls import first_to_differ
from vfunc.certification.precision import Asked, moved
from vfunc.certification.report import Row
from vfunc.certification.slopes import slope
from vfunc.problem import (
    Task,
    ValueProblem,
    construct_task,
    feedback_gradient,
    pretrain_gradient,
)
from vfunc.trees import Params

AWAY = 1e-2
"""Relative distance from theta_t at which forms and gradients are compared: a learner that uses
its own parameters in place of theta is right at theta_t itself."""

ROUNDING = 1e-6


def premises(
    problem: ValueProblem,
    theta: Params,
    phi: Params,
    asked: Asked,
    generator: torch.Generator,
) -> Iterator[Row]:
    """All checks in order; each takes those before it for granted.

    Args:
        problem: the question as it came.
        theta: the learner's parameters as they came, whose storage tells live ones.
        phi: the designer's parameters as they came.
        asked: the same in the precision of the check.
        generator: of the directions.
    """
    yield repeats_itself(asked)
    yield task_is_held(problem, theta, phi)
    theta = _away(asked.theta, generator)
    task = construct_task(asked.problem, asked.phi, asked.problem.batches[0]).task
    yield from forms(asked, theta, task, generator)
    yield from gradients(asked, theta, task, generator)


def repeats_itself(asked: Asked) -> Row:
    """construct, pretrain_loss and feedback_loss give the same numbers for the same arguments."""
    subject, problem = "evaluating twice gives the same", asked.problem
    for batch in problem.batches:
        task = construct_task(problem, asked.phi, batch).task
        again = construct_task(problem, asked.phi, batch).task
        differing = [n for n in task if n not in again or not _same(task[n], again[n], asked.unit)]
        if differing or len(task) != len(again):
            entries = f" in the task's {', '.join(map(repr, differing))}" if differing else ""
            where = _culprit(lambda b=batch: problem.construct(asked.phi, b))
            return Row(subject, "FAILED", note=f"construct does not repeat itself{entries}{where}")
    losses: dict[str, Callable[[], Tensor]] = {
        "pretrain_loss": lambda: problem.pretrain_loss(asked.theta, task),
        "feedback_loss": lambda: problem.feedback_loss(asked.theta),
    }
    with torch.no_grad():
        for name, function in losses.items():
            if not _same(function(), function(), asked.unit):
                note = f"{name} does not repeat itself{_culprit(function)}"
                return Row(subject, "FAILED", note=note)
    return Row(subject, "holds")


def _culprit(function: Callable[[], Any]) -> str:
    found = first_to_differ(function)
    where = f": it draws at {found}" if found else ""
    return f"{where}; fix the seed, or use eval mode"


def task_is_held(problem: ValueProblem, theta: Params, phi: Params) -> Row:
    """The task depends on phi, and on the learner's live parameters by value alone.

    A `construct` that closes over live parameters without detaching makes g_pre, the gradient of
    the step that the learner takes on a fixed task, another one than that of L_pre(theta; c).
    """
    subject, constant = "the task is held constant in theta", trees.detach(phi)
    for batch in problem.batches:
        with torch.enable_grad():
            task = problem.construct(constant, batch)
        attached = {n: x for n, x in task.items() if x.requires_grad}
        live = {
            n: leaf
            for leaf in _graph_leaves(attached.values())
            for n, x in theta.items()
            if _is_same_parameter(leaf, x)
        }
        gap = _effect_of_attaching(problem, theta, task, live) if live else 0.0
        if gap > ROUNDING:
            note = (
                f"construct's {', '.join(map(repr, attached))} depends differentiably on the "
                f"learner's {next(iter(live))!r}: g_pre with the task attached differs by "
                f"{gap:.2g} from g_pre with it detached; compute it under torch.no_grad()"
            )
            return Row(subject, "FAILED", gap=gap, note=note)
    return Row(subject, "holds")


def _effect_of_attaching(
    problem: ValueProblem, theta: Params, task: Task, live: dict[str, Tensor]
) -> float:
    """|g_pre through the task too - g_pre| / |g_pre|."""
    detached = pretrain_gradient(problem, theta, task)
    leaves = trees.leaves(theta)
    with torch.enable_grad():
        loss = problem.pretrain_loss(leaves, task)
        through = trees.gradient(loss, {f"own {n}": x for n, x in leaves.items()} | live)
    whole = {n: through[f"own {n}"] + through.get(n, 0.0) for n in theta}
    return float(trees.norm(trees.axpy(-1.0, detached, whole)) / trees.norm(detached))


def _graph_leaves(outputs: Any) -> list[Tensor]:
    """Every leaf that the outputs' graphs reach."""
    pending = [x.grad_fn for x in outputs if x.grad_fn is not None]
    found = [x for x in outputs if x.grad_fn is None]
    seen = set()
    while pending:
        node = pending.pop()
        if node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)
        pending += [parent for parent, _ in node.next_functions if parent is not None]
    return found


def _is_same_parameter(leaf: Tensor, x: Tensor) -> bool:
    if leaf.shape != x.shape or leaf.device != x.device:
        return False
    if leaf.data_ptr() == x.data_ptr():
        return True
    telling = bool((x != x.reshape(-1)[:1]).any())  # all zeros may be anyone's
    return telling and torch.equal(leaf.detach(), x.to(leaf.dtype))


@dataclass(frozen=True)
class _Claim:
    """Two numbers that a declared form says are equal, at each of a few points."""

    form: str
    pairs: list[tuple[Tensor, Tensor]]
    says: str


def forms(asked: Asked, theta: Params, task: Task, generator: torch.Generator) -> Iterator[Row]:
    """The declared `linear`, `composite` and `parts` equal the loss, at two points each."""
    problem = asked.problem
    with torch.no_grad():
        points = [asked.theta, theta]
        losses = [problem.pretrain_loss(t, task) for t in points]
        if problem.linear is not None:
            yield _linear(asked, points, losses, task, generator)
        if problem.composite is not None:
            form = problem.composite
            outputs = [form.outputs(t, task) for t in points]
            pairs = [(form.loss(o, task), x) for o, x in zip(outputs, losses, strict=True)]
            claim = _Claim("composite", pairs, "loss(outputs(theta, task), task) is not L_pre")
            row = _verdict(claim, asked.tolerance)
            yield _convex(asked, outputs[0], task, generator) if row.verdict == "holds" else row
        if problem.parts is not None:
            pairs = [(problem.parts(t, task).sum(), x) for t, x in zip(points, losses, strict=True)]
            yield _verdict(_Claim("parts", pairs, "their sum is not L_pre"), asked.tolerance)


def _verdict(claim: _Claim, tolerance: float) -> Row:
    gap = max(_apart(a, b) for a, b in claim.pairs)
    subject = f"the declared {claim.form} is the loss"
    if gap <= tolerance:
        return Row(subject, "holds", gap=gap)
    return Row(subject, "FAILED", gap=gap, note=f"{claim.form}: {claim.says}, but {gap:.2g} off")


def _linear(
    asked: Asked, points: list[Params], losses: list[Tensor], task: Task, draw: torch.Generator
) -> Row:
    """L_pre = <q, coefficients>, the coefficients not reading q: also at another q."""
    problem, form = asked.problem, asked.problem.linear
    assert form is not None
    subject = "the declared linear is the loss"
    if form.target not in task:
        has = ", ".join(task)
        note = f"linear.target is {form.target!r}, and the task has no such entry; it has {has}"
        return Row(subject, "FAILED", note=note)
    q = task[form.target]
    stretch = torch.rand(q.shape, generator=draw, dtype=torch.float64).to(q.device)
    other = task | {form.target: (q * (0.5 + stretch)).to(q.dtype)}
    b, b_other = form.coefficients(points[0], task), form.coefficients(points[0], other)
    if b.shape != q.shape:
        note = f"linear.coefficients is of shape {tuple(b.shape)}, {form.target!r} {tuple(q.shape)}"
        return Row(subject, "FAILED", note=note)
    reads = _Claim("linear", [(b_other, b)], f"its coefficients read {form.target!r}")
    row = _verdict(reads, asked.tolerance)
    if row.verdict == "FAILED":
        return row
    pairs = [
        ((q * b).sum(), losses[0]),
        ((q * form.coefficients(points[1], task)).sum(), losses[1]),
        ((other[form.target] * b).sum(), problem.pretrain_loss(points[0], other)),
    ]
    says = f"<{form.target}, coefficients> is not L_pre"
    return _verdict(_Claim("linear", pairs, says), asked.tolerance)


def _convex(asked: Asked, outputs: Tensor, task: Task, generator: torch.Generator) -> Row:
    """The loss lies nowhere above its chord, in a few directions of the outputs."""
    form = asked.problem.composite
    assert form is not None
    subject = "the declared composite is the loss"
    middle = form.loss(outputs, task)
    for _ in range(4):
        step = trees.normal_like({"": outputs}, generator)[""]
        ends = form.loss(outputs + step, task) + form.loss(outputs - step, task)
        size = float(ends.abs() + middle.abs())
        below = float(2 * middle - ends) / size if size else 0.0
        if below > 100 * asked.unit:
            note = (
                f"composite: the loss is not convex in the outputs (above its chord, {below:.2g})"
            )
            return Row(subject, "FAILED", note=note)
    return Row(subject, "holds")


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


def _away(theta: Params, generator: torch.Generator) -> Params:
    drawn = trees.normal_like(theta, generator)
    return {
        n: x + AWAY * (x.detach().double().pow(2).mean().sqrt() + 1e-3).to(x) * drawn[n]
        for n, x in theta.items()
    }


def _same(a: Tensor, b: Tensor, unit: float) -> bool:
    """Equal to rounding: sums on an accelerator may take their terms in another order."""
    if a.shape != b.shape:
        return False
    if not a.is_floating_point():
        return torch.equal(a, b)
    a, b = a.detach().double(), b.detach().double()
    return torch.allclose(a, b, rtol=1e3 * unit, atol=1e3 * unit * _scale(a), equal_nan=True)


def _scale(a: Tensor) -> float:
    finite = a[torch.isfinite(a)]
    return float(finite.abs().max()) if finite.numel() else 0.0


def _apart(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    size = float(torch.linalg.vector_norm(b)) or 1.0
    return float(torch.linalg.vector_norm(a - b)) / size
