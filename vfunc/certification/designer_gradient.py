"""Checks the task's gradient in phi: that autograd sees all of the dependence."""

from __future__ import annotations

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.plain_gradients import KINKED, check_gradient
from vfunc.certification.promotion import Question, moved
from vfunc.certification.report import Row
from vfunc.problem import Task, construct_task
from vfunc.trees import Params


def designer_gradient_is_right(question: Question, generator: torch.Generator) -> Row:
    """Compares grad_phi <r, c_phi>, r random, with the slope of <r, c_phi>.

    All entries of the task count, those too that autograd takes for constants.
    """
    subject = "construct is differentiable in phi"
    construction = construct_task(question.problem, question.phi, question.problem.batches[0])
    floating = {n: x for n, x in construction.task.items() if x.is_floating_point()}
    if not floating:
        return Row(subject, "holds")
    # masks of -inf have no slope
    r = {
        n: x.where(torch.isfinite(floating[n]), 0)
        for n, x in trees.normal_like(floating, generator).items()
    }
    check = check_gradient(
        lambda step, along: _inner(r, _made(question, step, along)),
        construction.pull(r),
        question,
        generator,
    )
    note = KINKED if check.verdict == "inconclusive" else ""
    if check.verdict == "FAILED":
        note = _cut(question, r, generator)
    return Row(subject, check.verdict, "", check.gap, check.resolution, note)


def _made(question: Question, step: float, along: Params) -> Task:
    with torch.enable_grad():
        phi = question.phi | moved({n: question.phi[n] for n in along}, step, along)
        return question.problem.construct(phi, question.problem.batches[0])


def _inner(r: Params, task: Task) -> Tensor:
    """<r, c>, with infinities (masks) left out."""
    return trees.dot(r, {n: task[n].detach().nan_to_num(posinf=0.0, neginf=0.0) for n in r})


def _cut(question: Question, r: Params, generator: torch.Generator) -> str:
    """Names an entry of the task, and the parameters whose gradient does not reach it."""
    found: dict[str, list[str]] = {}
    for entry, cotangent in r.items():
        construction = construct_task(question.problem, question.phi, question.problem.batches[0])
        alone = {n: cotangent if n == entry else torch.zeros_like(x) for n, x in r.items()}
        got = construction.pull(alone)
        for name in question.phi:
            check = check_gradient(
                lambda step, along, alone=alone: _inner(alone, _made(question, step, along)),
                {name: got[name]},
                question,
                generator,
            )
            if check.verdict == "FAILED":
                found.setdefault(entry, []).append(name)
    if not found:
        return "construct: its gradient in phi is not its slope"
    entry, names = next(iter(found.items()))
    which = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
    return (
        f"construct: the gradient of the task's {entry!r} in phi's {which} is not its slope; look "
        "for detach(), torch.no_grad() or a hard choice between them"
    )
