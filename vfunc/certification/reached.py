"""Whether the task's dependence on phi is one that autograd knows of."""

from __future__ import annotations

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.plain_gradients import KINKED, hold
from vfunc.certification.promotion import Asked, moved
from vfunc.certification.report import Row
from vfunc.problem import Task, construct_task
from vfunc.trees import Params


def designer_is_reached(asked: Asked, generator: torch.Generator) -> Row:
    """grad_phi <r, c_phi>, r random, is the slope of <r, c_phi>: nothing on the way is cut.

    All entries of the task count, those too that autograd takes for constants.
    """
    subject = "construct is differentiable in phi"
    construction = construct_task(asked.problem, asked.phi, asked.problem.batches[0])
    floating = {n: x for n, x in construction.task.items() if x.is_floating_point()}
    if not floating:
        return Row(subject, "holds")
    r = trees.normal_like(floating, generator)
    held = hold(
        lambda step, along: _inner(r, _made(asked, step, along)),
        construction.pull(r),
        asked,
        generator,
    )
    note = KINKED if held.verdict == "inconclusive" else ""
    if held.verdict == "FAILED":
        note = _cut(asked, r, generator)
    return Row(subject, held.verdict, "", held.gap, held.resolution, note)


def _made(asked: Asked, step: float, along: Params) -> Task:
    with torch.no_grad():
        phi = asked.phi | moved({n: asked.phi[n] for n in along}, step, along)
        return asked.problem.construct(phi, asked.problem.batches[0])


def _inner(r: Params, task: Task) -> Tensor:
    """<r, c>, with infinities (masks) left out."""
    return trees.dot(r, {n: task[n].detach().nan_to_num(posinf=0.0, neginf=0.0) for n in r})


def _cut(asked: Asked, r: Params, generator: torch.Generator) -> str:
    """Which entries of the task miss which of phi's parameters."""
    found: dict[str, list[str]] = {}
    for entry, cotangent in r.items():
        construction = construct_task(asked.problem, asked.phi, asked.problem.batches[0])
        alone = {n: cotangent if n == entry else torch.zeros_like(x) for n, x in r.items()}
        got = construction.pull(alone)
        for name in asked.phi:
            held = hold(
                lambda step, along, alone=alone: _inner(alone, _made(asked, step, along)),
                {name: got[name]},
                asked,
                generator,
            )
            if held.verdict == "FAILED":
                found.setdefault(entry, []).append(name)
    if not found:
        return "construct: its gradient in phi is not its slope"
    entry, names = next(iter(found.items()))
    which = ", ".join(map(repr, names[:3])) + (", ..." if len(names) > 3 else "")
    return (
        f"construct: the gradient of the task's {entry!r} in phi's {which} is not its slope; look "
        "for detach(), torch.no_grad() or a hard choice between them"
    )
