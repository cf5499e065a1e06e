"""Checks the pullback of the simulated optimizer step against differences of the step itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vfunc import trees
from vfunc.certification.promotion import Question, moved
from vfunc.certification.report import Row
from vfunc.certification.slopes import SAFETY, slope
from vfunc.problem import construct_task, step_gradient
from vfunc.simulate import OptimizerState
from vfunc.trees import Params

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
        "the optimizer's buffers": (
            buffers,
            {key: _bar(state_bar, key, x) for key, x in buffers.items()},
        ),
        "the gradient": (g, {n: g_bar[n] for n in g}),
    }
    worst = 0.0
    for what, (point, bar) in bars.items():
        if not point:
            continue
        for _ in range(2):
            along = {n: SHARE * x * _size(point[n]) for n, x in _like(point, generator).items()}
            if what == "the optimizer's buffers":
                along = {n: SHARE * x * point[n] for n, x in _like(point, generator).items()}

            def value(step: float, what: str = what, along: Params = along) -> Tensor:
                at = {w: p for w, (p, _) in bars.items()}
                at[what] = moved(at[what], step, along)
                new, new_state = problem.rule.step(
                    at["theta"], _with(state, at["the optimizer's buffers"]), at["the gradient"]
                )
                buffers = [
                    trees.dot(r_state[n], dict(s.buffers))
                    for n, s in new_state.items()
                    if r_state.get(n)
                ]
                return torch.stack([trees.dot(r, new), *buffers]).sum()

            terms = {n: bar[n].double() * along[n].double() for n in along}
            measured = slope(value, enough=0.0, unit=question.unit)
            expected = sum(float(x.sum()) for x in terms.values())
            size = sum(float(x.abs().sum()) for x in terms.values()) or abs(float(measured.value))
            gap = abs(expected - float(measured.value))
            if not gap > max(100 * question.tolerance * size, SAFETY * measured.error):
                worst = max(worst, gap / size if size else 0.0)
                break
        else:
            note = (
                f"{_named(problem.rule.rules)}: its vjp is not the pullback of its step in {what}, "
                f"wrong by {gap / size if size else gap:.2g}"
            )
            return Row(subject, "FAILED", gap=gap / size if size else gap, note=note)
    return Row(subject, "holds", gap=worst)


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
