"""Adam's step where finite differences of it mean something.

In a fresh state Adam's step is g / (|g| + eps): for eps far below |g| that is the sign of g, whose
derivative is zero but for a spike that no finite difference sees. The step's arithmetic is the
same at any eps, so it is certified where the step is smooth over the size of the gradient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from vfunc.problem import ValueProblem, construct_task, pretrain_gradient
from vfunc.simulate import Adam, TensorState
from vfunc.trees import Params

SHARP = 1e-2
"""A step is taken for a sign's where it turns within this share of the gradient's own size."""


def smoothed(problem: ValueProblem, theta: Params, phi: Params) -> tuple[ValueProblem, str | None]:
    """The problem with Adam's epsilon raised to the gradient's size where the step is a sign's.

    Args:
        problem: the question.
        theta: where.
        phi: for the task.

    Returns:
        The problem, and what was changed in words, or None.
    """
    task = construct_task(problem, phi, problem.batches[0]).task
    g = problem.rule.effective(pretrain_gradient(problem, theta, task))
    adam = [n for n in theta if n in g and isinstance(problem.rule.rule(n), Adam)]
    entries = torch.cat([torch.zeros(1), *(g[n].detach().flatten().cpu() for n in adam)])
    entries = entries[entries != 0].double()
    size = float(entries.pow(2).mean().sqrt()) if len(entries) else 0.0
    if not any(_is_sharp(problem, name, g, size) for name in adam):
        return problem, None
    rules = {name: problem.rule.rule(name) for name in theta}
    before = min(rules[name].eps for name in adam)
    rules |= {name: replace(rules[name], eps=max(rules[name].eps, size)) for name in adam}
    note = (
        f"Adam's epsilon was raised from {before:g} to {size:.1e}, the gradient's size, for the "
        "check: with next to no second moment the step is a sign, and has no finite difference"
    )
    rule = replace(problem.rule, rules=rules)
    domains = {name: replace(part, rule=rule) for name, part in problem.domains.items()}
    return replace(problem, rule=rule, domains=domains), note


def _is_sharp(problem: ValueProblem, name: str, g: Mapping[str, torch.Tensor], size: float) -> bool:
    """Whether the step turns, in some entry that moves, over much less than |g|."""
    rule = problem.rule.rule(name)
    assert isinstance(rule, Adam)
    state = problem.state.get(name, TensorState())
    b2 = rule.betas[1]
    v = state.buffers.get("exp_avg_sq", torch.zeros_like(g[name]))
    # sqrt(v+ / c2) + eps as a function of g: both terms of its width, in units of g
    width = ((b2 * v).sqrt() + (1 - b2 ** (state.step + 1)) ** 0.5 * rule.eps) / (1 - b2) ** 0.5
    return bool((width[g[name] != 0] < SHARP * size).any())
