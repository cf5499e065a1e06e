"""Checks that the forms a problem declares of its loss are its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Question
from vfunc.certification.report import Row
from vfunc.certification.slopes import SAFETY, slope
from vfunc.certification.stopped import first_stopped
from vfunc.problem import Task, pretrain_gradient
from vfunc.pullback import ENGINES, attention_for
from vfunc.pullback.missing import MissingDerivativeError, missing_told
from vfunc.trees import Params


@dataclass(frozen=True)
class _Claim:
    """A declared form, two numbers that it equates at each of a few points, and the message."""

    form: str
    pairs: list[tuple[Tensor, Tensor]]
    says: str


def forms(
    question: Question, theta: Params, task: Task, generator: torch.Generator
) -> Iterator[Row]:
    """The declared `linear`, `composite` and `parts` are the loss, at two points each.

    In value, and in gradient: what is detached in a form is there in its value alone.
    """
    rows = _equal(question, theta, task, generator)
    slopes = _differentiable(question, theta, task, generator)
    for row in rows:
        form = row.subject.removeprefix("the declared ").removesuffix(" is the loss")
        yield slopes[form]() if row.verdict == "holds" else row


def _equal(
    question: Question, theta: Params, task: Task, generator: torch.Generator
) -> Iterator[Row]:
    """Whether the forms' values are the loss's."""
    problem = question.problem
    with torch.enable_grad():
        points = [question.theta, theta]
        losses = [problem.pretrain(t, task).detach() for t in points]
        if problem.linear is not None:
            yield _linear(question, points, losses, task, generator)
        if problem.composite is not None:
            form = problem.composite
            outputs = [form.outputs(t, task, *problem.held(t)).detach() for t in points]
            pairs = [(form.loss(o, task).detach(), x) for o, x in zip(outputs, losses, strict=True)]
            claim = _Claim("composite", pairs, "loss(outputs(theta, task), task) is not L_pre")
            row = _verdict(claim, question.tolerance)
            yield _convex(question, outputs[0], task, generator) if row.verdict == "holds" else row
        if problem.parts is not None:
            sums = [problem.parts(t, task, *problem.held(t)).sum().detach() for t in points]
            pairs = list(zip(sums, losses, strict=True))
            yield _verdict(_Claim("parts", pairs, "their sum is not L_pre"), question.tolerance)


def _differentiable(
    question: Question, theta: Params, task: Task, generator: torch.Generator
) -> dict[str, Callable[[], Row]]:
    """For each declared form, a check that its gradient in theta is that of the loss."""
    problem, found = question.problem, {}
    linear, composite, parts = problem.linear, problem.composite, problem.parts
    if linear is not None:

        def of_linear() -> Row:
            row = _same_gradient(
                "linear", question, theta, task,
                lambda t: (
                    task[linear.target] * linear.coefficients(t, task, *problem.held(t))
                ).sum(),
            )  # fmt: skip
            own = linear.tangent is not None and row.verdict == "holds"
            return _along(question, theta, task, row) if own else row

        found["linear"] = of_linear
    if composite is not None:

        def of_composite() -> Row:
            row = _same_gradient(
                "composite", question, theta, task,
                lambda t: composite.loss(composite.outputs(t, task, *problem.held(t)), task),
            )  # fmt: skip
            return _curved(question, theta, task, generator) if row.verdict == "holds" else row

        found["composite"] = of_composite
    if parts is not None:
        found["parts"] = lambda: _same_gradient(
            "parts", question, theta, task, lambda t: parts(t, task, *problem.held(t)).sum()
        )
    return found


def _same_gradient(
    form: str, question: Question, theta: Params, task: Task, loss: Callable[[Params], Tensor]
) -> Row:
    subject = f"the declared {form} is the loss"
    leaves = trees.leaves(theta)
    with torch.enable_grad():
        g = trees.gradient(loss(leaves), leaves)
    wanted = pretrain_gradient(question.problem, theta, task)
    size = float(trees.norm(wanted)) or 1.0
    gap = float(trees.norm(trees.axpy(-1.0, wanted, g))) / size
    if not gap > 100 * question.tolerance:
        return Row(subject, "holds", gap=gap)
    stopped = first_stopped(lambda: loss(leaves), leaves.values())
    where = f" ({stopped} holds it constant)" if stopped else ""
    note = f"{form}: its gradient in theta is not that of pretrain_loss, {gap:.2g} off{where}"
    return Row(subject, "FAILED", gap=gap, note=note)


def _along(question: Question, theta: Params, task: Task, holds: Row) -> Row:
    """The form's own tangent is its coefficients': <r, tangent> = <w, grad <r, coefficients>>."""
    form, held = question.problem.linear, question.problem.held(theta)
    assert form is not None and form.tangent is not None
    generator = torch.Generator().manual_seed(0)  # its own: what is drawn elsewhere stays
    w = trees.normal_like(theta, generator)
    r = trees.normal_like({"": task[form.target]}, generator)[""]
    try:
        with attention_for(ENGINES["linear"]), missing_told("linear"):
            along = form.tangent(theta, w, task, *held)
    except MissingDerivativeError:  # no engine takes it then
        return holds
    if along.shape != r.shape:
        note = f"linear.tangent is of shape {tuple(along.shape)}, {form.target!r} {tuple(r.shape)}"
        return Row(holds.subject, "FAILED", note=note)
    leaves = trees.leaves(theta)
    with torch.enable_grad():
        g = trees.gradient((r * form.coefficients(leaves, task, *held)).sum(), leaves)
    gap = float((r * along).sum() - trees.dot(w, g)) / (float(trees.norm(w) * trees.norm(g)) or 1.0)
    if not abs(gap) > 100 * question.tolerance:
        return holds
    note = f"linear: its tangent is not that of its coefficients, {abs(gap):.2g} off"
    return Row(holds.subject, "FAILED", gap=abs(gap), note=note)


def _curved(question: Question, theta: Params, task: Task, generator: torch.Generator) -> Row:
    """The loss's second derivative in the outputs is that of its gradient."""
    form, subject = question.problem.composite, "the declared composite is the loss"
    assert form is not None
    with torch.enable_grad():
        outputs = form.outputs(theta, task, *question.problem.held(theta)).detach()
    v = trees.normal_like({"": outputs}, generator)[""]

    def gradient(z: Tensor, graph: bool = False) -> tuple[Tensor, Tensor]:
        leaf = z.detach().requires_grad_()
        with torch.enable_grad():
            loss = form.loss(leaf, task)
            if not loss.requires_grad:
                return leaf, torch.zeros_like(leaf)
            return leaf, torch.autograd.grad(loss, leaf, create_graph=graph)[0]

    leaf, g = gradient(outputs, graph=True)
    product = torch.zeros_like(leaf)
    if g.requires_grad:
        with torch.enable_grad():
            product = trees.gradient((g * v).sum(), {"": leaf})[""]
    measured = slope(lambda step: gradient(outputs + step * v)[1], unit=question.unit)
    size = max(float(product.norm()), float(measured.value.norm())) or 1.0
    gap = float((product.double() - measured.value).norm())
    if not gap > max(100 * question.tolerance * size, SAFETY * measured.error):
        return Row(subject, "holds", gap=gap / size)
    stopped = first_stopped(lambda: form.loss(leaf, task), [leaf])
    where = f": {stopped} holds a part of it constant" if stopped else ""
    note = (
        f"composite: the loss's second derivative in the outputs is not that of its gradient, "
        f"{gap / size:.2g} off{where}"
    )
    return Row(subject, "FAILED", gap=gap / size, note=note)


def _verdict(claim: _Claim, tolerance: float) -> Row:
    gap = max(_apart(a, b) for a, b in claim.pairs)
    subject = f"the declared {claim.form} is the loss"
    if gap <= tolerance:
        return Row(subject, "holds", gap=gap)
    return Row(subject, "FAILED", gap=gap, note=f"{claim.form}: {claim.says}, but {gap:.2g} off")


def _linear(
    question: Question,
    points: list[Params],
    losses: list[Tensor],
    task: Task,
    draw: torch.Generator,
) -> Row:
    """L_pre = <q, coefficients>, the coefficients not reading q: also at another q."""
    problem, form = question.problem, question.problem.linear
    assert form is not None
    subject = "the declared linear is the loss"
    if form.target not in task:
        has = ", ".join(task)
        note = f"linear.target is {form.target!r}, and the task has no such entry; it has {has}"
        return Row(subject, "FAILED", note=note)
    q = task[form.target]
    stretch = torch.rand(q.shape, generator=draw, dtype=torch.float64).to(q.device)
    other = task | {form.target: (q * (0.5 + stretch)).to(q.dtype)}
    held = problem.held(points[0])
    b, b_other = (form.coefficients(points[0], at, *held) for at in (task, other))
    if b.shape != q.shape:
        note = f"linear.coefficients is of shape {tuple(b.shape)}, {form.target!r} {tuple(q.shape)}"
        return Row(subject, "FAILED", note=note)
    reads = _Claim("linear", [(b_other, b)], f"its coefficients read {form.target!r}")
    row = _verdict(reads, question.tolerance)
    if row.verdict == "FAILED":
        return row
    pairs = [
        ((q * b).sum(), losses[0]),
        ((q * form.coefficients(points[1], task, *problem.held(points[1]))).sum(), losses[1]),
        ((other[form.target] * b).sum(), problem.pretrain(points[0], other)),
    ]
    says = f"<{form.target}, coefficients> is not L_pre"
    return _verdict(_Claim("linear", pairs, says), question.tolerance)


def _convex(question: Question, outputs: Tensor, task: Task, generator: torch.Generator) -> Row:
    """The loss lies nowhere above its chord, in a few directions of the outputs."""
    form = question.problem.composite
    assert form is not None
    subject = "the declared composite is the loss"
    middle = form.loss(outputs, task).detach()
    for _ in range(4):
        step = trees.normal_like({"": outputs}, generator)[""]
        ends = (form.loss(outputs + step, task) + form.loss(outputs - step, task)).detach()
        size = float(ends.abs() + middle.abs())
        below = float(2 * middle - ends) / size if size else 0.0
        if below > 100 * question.unit:
            note = (
                f"composite: the loss is not convex in the outputs (above its chord, {below:.2g})"
            )
            return Row(subject, "FAILED", note=note)
    return Row(subject, "holds")


def _apart(a: Tensor, b: Tensor) -> float:
    a, b = a.detach().double(), b.detach().double()
    size = float(torch.linalg.vector_norm(b)) or 1.0
    return float(torch.linalg.vector_norm(a - b)) / size
