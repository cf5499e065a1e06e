"""Checks the premises of every estimator on the problem itself.

Each check returns a `Row`, and raises nothing; `certify` stops at the first that fails, since no
slope means anything after it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from vfunc import trees
from vfunc.certification.designer_gradient import designer_gradient_is_right
from vfunc.certification.forms import forms
from vfunc.certification.plain_gradients import gradients
from vfunc.certification.promotion import Question
from vfunc.certification.report import Row
from vfunc.certification.steadiness import changed_by
from vfunc.certification.traced_calls import first_to_differ, uncompiled
from vfunc.problem import Task, ValueProblem, construct_task, pretrain_gradient
from vfunc.trees import Params

AWAY = 1e-2
"""Relative distance from theta_t at which forms and gradients are compared. A learner that uses
its own parameters in place of theta is right at theta_t itself."""

ROUNDING = 1e-6
"""Relative difference of gradients in float64 that rounding explains."""


def premises(
    problem: ValueProblem,
    theta: Params,
    phi: Params,
    question: Question,
    generator: torch.Generator,
) -> Iterator[Row]:
    """All checks in order; each assumes that those before it passed.

    Args:
        problem: the problem as passed in.
        theta: the learner's parameters as passed in, whose storage identifies live ones.
        phi: the designer's parameters as passed in.
        question: the same in the precision of the check.
        generator: source of the directions.
    """
    yield repeats_itself(question)
    yield task_is_held(problem, theta, phi)
    yield theta_is_used(problem, theta, phi)
    yield designer_gradient_is_right(question, generator)
    theta = _away(question.theta, generator)
    task = construct_task(question.problem, question.phi, question.problem.batches[0]).task
    yield from forms(question, theta, task, generator)
    yield from gradients(question, theta, task, generator)


def repeats_itself(question: Question) -> Row:
    """Checks that construct, pretrain_loss and feedback_loss repeat their numbers."""
    subject, problem = "evaluating twice gives the same", question.problem
    task: Task = {}
    for batch in problem.batches:
        task = construct_task(problem, question.phi, batch).task
        again = construct_task(problem, question.phi, batch).task
        differing = [
            n for n in task if n not in again or not _same(task[n], again[n], question.unit)
        ]
        if differing or len(task) != len(again):
            entries = f" in the task's {', '.join(map(repr, differing))}" if differing else ""
            where = _culprit(lambda b=batch: problem.construct(question.phi, b), problem.construct)
            return Row(subject, "FAILED", note=f"construct does not repeat itself{entries}{where}")
    losses: dict[str, Callable[[], Tensor]] = {
        "pretrain_loss": lambda: problem.pretrain(question.theta, task),
        "feedback_loss": lambda: problem.feedback_loss(question.theta),
    }
    with torch.enable_grad():
        for name, function in losses.items():
            if not _same(function().detach(), function().detach(), question.unit):
                note = f"{name} does not repeat itself{_culprit(function, getattr(problem, name))}"
                return Row(subject, "FAILED", note=note)
    return Row(subject, "holds")


def _culprit(function: Callable[[], Any], asked: object) -> str:
    found = first_to_differ(function)
    if found:
        return f": it draws at {found}; fix the seed, or use eval mode"
    kept = changed_by(function, asked)
    if kept:
        return f": {kept} has changed meanwhile; an estimate must not depend on such state"
    return "; fix the seed, or use eval mode"


def task_is_held(problem: ValueProblem, theta: Params, phi: Params) -> Row:
    """Checks that the task depends on the learner's live parameters by value alone.

    A `construct` that closes over live parameters without detaching makes g_pre, the gradient of
    the step that the learner takes on a fixed task, another one than that of L_pre(theta; c).
    """
    subject, constant = "the task is held constant in theta", trees.detach(phi)
    for batch in problem.batches:
        with torch.enable_grad():
            task = problem.construct(constant, batch)
        attached = {n: x for n, x in task.items() if x.requires_grad}
        live = _live_among(_graph_leaves(attached.values()), problem, theta, task)
        gap = _effect_of_attaching(problem, theta, task, live) if live else 0.0
        if gap > ROUNDING:
            note = (
                f"construct's {', '.join(map(repr, attached))} depends differentiably on the "
                f"learner's {next(iter(live))!r}: g_pre with the task attached differs by "
                f"{gap:.2g} from g_pre with it detached; detach the learner's parameters (or "
                "outputs) that it uses, and not the designer's own"
            )
            return Row(subject, "FAILED", gap=gap, note=note)
    return Row(subject, "holds")


def theta_is_used(problem: ValueProblem, theta: Params, phi: Params) -> Row:
    """Checks that both losses are functions of theta, and not of the live parameters behind it."""
    subject = "the losses are functions of theta"
    task = construct_task(problem, phi, problem.batches[0]).task
    losses: dict[str, Callable[[Params], Tensor]] = {
        "pretrain_loss": lambda t: problem.pretrain(t, task),
        "feedback_loss": problem.feedback_loss,
    }
    for name, loss in losses.items():
        leaves = trees.leaves(theta)
        with torch.enable_grad():
            found = loss(leaves)
        reached = trees.reached_gradient(found, leaves)
        if name == "feedback_loss" and not found.requires_grad:
            continue  # its gradient says so, or the problem does (`silent`)
        own = {id(x) for x in leaves.values()}
        foreign = [x for x in _graph_leaves([found]) if id(x) not in own]
        live = _taken_for_theta(foreign, theta, reached)
        if live:
            note = (
                f"{name} uses the live parameter {live!r} in place of theta's: call the module "
                "with theta (vfunc.functional, torch.func.functional_call)"
            )
            return Row(subject, "FAILED", note=note)
        if not reached:
            note = f"{name} does not depend on theta: it has no gradient in any of its parameters"
            return Row(subject, "FAILED", note=note)
    return Row(subject, "holds")


def _taken_for_theta(foreign: list[Tensor], theta: Params, reached: Params) -> str:
    """The name of a parameter that a live one stands for; "" if there is none.

    It shares theta's memory; or it is equal to it, and theta's own is not reached.
    """
    for name, x in theta.items():
        for leaf in foreign:
            if leaf.shape != x.shape or not x.numel():
                continue
            same = leaf.data_ptr() == x.data_ptr()
            if same or (name not in reached and torch.equal(leaf.detach().to(x), x)):
                return name
    return ""


def _effect_of_attaching(
    problem: ValueProblem, theta: Params, task: Task, live: dict[str, Tensor]
) -> float:
    """|g_pre through the task too - g_pre| / |g_pre|."""
    detached = pretrain_gradient(problem, theta, task)
    leaves = trees.leaves(theta)
    with torch.enable_grad():
        loss = problem.pretrain(leaves, task)
        through = trees.gradient(loss, {f"own {n}": x for n, x in leaves.items()} | live)
    whole = {n: through[f"own {n}"] + through.get(n, 0.0) for n in theta}
    return float(trees.norm(trees.axpy(-1.0, detached, whole)) / trees.norm(detached))


def _graph_leaves(outputs: Any) -> list[Tensor]:
    """The leaves of the outputs' graphs."""
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


def _live_among(
    leaves: list[Tensor], problem: ValueProblem, theta: Params, task: Task
) -> dict[str, Tensor]:
    """Those of the leaves that are the learner's own parameters, by their names in theta.

    They share theta's memory; or, where theta is a copy, they are what stands in a module again
    after `functional_call` has had theta's tensors there. Equal numbers say nothing: a teacher
    begins as a copy of the learner.
    """
    if not leaves:
        return {}
    names = {x.data_ptr(): n for n, x in theta.items() if x.numel()}
    slots: dict[tuple[nn.Module, str], str] = {}

    def seen(module: nn.Module, _: Any) -> None:
        for slot, x in module._parameters.items():
            if x is not None and x.data_ptr() in names:
                slots[module, slot] = names[x.data_ptr()]

    hook = nn.modules.module.register_module_forward_pre_hook(seen)
    try:
        with uncompiled(), torch.enable_grad():
            problem.pretrain(theta, trees.detach(task))
    finally:
        hook.remove()
    own = {id(module._parameters[slot]): name for (module, slot), name in slots.items()}
    own |= {id(leaf): names[leaf.data_ptr()] for leaf in leaves if leaf.data_ptr() in names}
    return {own[id(leaf)]: leaf for leaf in leaves if id(leaf) in own}


def _away(theta: Params, generator: torch.Generator) -> Params:
    noise = trees.normal_like(theta, generator)
    return {
        n: x + AWAY * (x.detach().double().pow(2).mean().sqrt() + 1e-3).to(x) * noise[n]
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
