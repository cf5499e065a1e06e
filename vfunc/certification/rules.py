"""Checks the pullback of the simulated optimizer step against differences of the step itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Question, moved
from vfunc.certification.report import Row
from vfunc.certification.slopes import SAFETY, Slope, slope
from vfunc.errors import UserError
from vfunc.problem import ValueProblem, construct_task, step_gradient
from vfunc.simulate import OptimizerState, check_step
from vfunc.trees import Params

BUFFERS = "the optimizer's buffers"

SHARE = 0.1
"""Of a buffer's entries in its direction: second moments stay positive."""


def rule_is_right(question: Question, generator: torch.Generator) -> Row:
    """Compares `UpdateRule.vjp` with slopes of <r, U(theta, state, g)>, r random.

    Separately in theta, in the optimizer's buffers and in the gradient: the note says which.
    """
    subject, problem = "the optimizer's pullback is that of its step", question.problem
    task = construct_task(problem, question.phi, problem.batches[0]).task
    theta, g = question.theta, step_gradient(problem, question.theta, task)
    state = {n: s for n, s in problem.state.items() if n in theta}
    after, state_after = problem.rule.step(theta, state, g)
    r = _like(after, generator)
    r_state = {n: _like(dict(s.buffers), generator) for n, s in state_after.items()}
    p_bar, state_bar, g_bar = problem.rule.vjp(theta, state, g, r, r_state)
    buffers = {f"{n} {k}": x for n, s in state.items() for k, x in s.buffers.items()}
    bars = {
        "theta": (theta, p_bar),
        BUFFERS: (
            buffers,
            {key: _bar(state_bar, key, x) for key, x in buffers.items()},
        ),
        "the gradient": (g, {n: g_bar[n] for n in g}),
    }

    def value(what: str, step: float, along: Params) -> Tensor:
        at = {name: point for name, (point, _) in bars.items()}
        at[what] = moved(at[what], step, along)
        buffers_at = _with(state, at[BUFFERS])
        new, new_state = problem.rule.step(at["theta"], buffers_at, at["the gradient"])
        moved_on = {n: dict(s.buffers) for n, s in new_state.items() if r_state.get(n)}
        inner = [trees.dot(r_state[n], kept) for n, kept in moved_on.items()]
        return torch.stack([trees.dot(r, new), *inner]).sum()

    worst = 0.0
    for what, (point, bar) in bars.items():
        if not point:
            continue
        gaps = []
        for _ in range(2):
            unit = point if what == BUFFERS else {n: _size(x) for n, x in point.items()}
            along = {n: SHARE * x * unit[n] for n, x in _like(point, generator).items()}
            measured = slope(lambda h, what=what, d=along: value(what, h, d), unit=question.unit)
            gaps.append(_gap(bar, along, measured, question))
            if not gaps[-1].wrong:
                break
        worst = max(worst, gaps[-1].relative)
        if gaps[-1].wrong:
            note = (
                f"{_named(problem.rule.rules)}: its vjp is not the pullback of its step in {what}, "
                f"wrong by {gaps[-1].relative:.2g}"
            )
            return Row(subject, "FAILED", gap=gaps[-1].relative, note=note)
    return Row(subject, "holds", gap=worst)


def step_is_live(
    problem: ValueProblem, optimizer: torch.optim.Optimizer, parameters: Mapping[str, Tensor]
) -> Row:
    """Holds the problem's rule and state against a step of a copy of the live optimizer."""
    subject = "the simulated step is the optimizer's own"
    try:
        return Row(
            subject,
            "holds",
            gap=check_step(optimizer, parameters, problem.rule, problem.state),
        )
    except UserError as error:
        return Row(subject, "FAILED", note=str(error))


@dataclass(frozen=True)
class _Gap:
    """How far <bar, direction> is from the slope, and whether rounding does not explain it."""

    relative: float
    wrong: bool


def _gap(bar: Params, along: Params, measured: Slope, question: Question) -> _Gap:
    terms = {n: bar[n].double() * x.double() for n, x in along.items()}
    expected = sum(float(x.sum()) for x in terms.values())
    size = sum(float(x.abs().sum()) for x in terms.values()) or abs(float(measured.value)) or 1.0
    apart = abs(expected - float(measured.value))
    bound = max(100 * question.tolerance * size, SAFETY * measured.error)
    return _Gap(apart / size, apart > bound)


def _with(state: OptimizerState, buffers: Params) -> OptimizerState:
    return {
        n: replace(s, buffers={k: buffers[f"{n} {k}"] for k in s.buffers}) for n, s in state.items()
    }


def _bar(state_bar: Mapping[str, Mapping[str, Tensor]], key: str, x: Tensor) -> Tensor:
    name, _, buffer = key.rpartition(" ")
    return state_bar.get(name, {}).get(buffer, torch.zeros_like(x))


def _like(point: Params, generator: torch.Generator) -> Params:
    return trees.normal_like(point, generator) if point else {}


def _size(x: Tensor) -> Tensor:
    return x.detach().pow(2).mean().sqrt() if x.numel() else x.new_zeros(())


def _named(rules: object) -> str:
    kinds = rules.values() if isinstance(rules, Mapping) else [rules]
    return "the rule " + " or ".join(dict.fromkeys(type(rule).__name__ for rule in kinds))
