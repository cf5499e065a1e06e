"""Raises Adam's second moments until finite differences of its step mean something.

In a fresh state Adam's step is g / (|g| + eps): for eps far below |g| that is the sign of g, whose
derivative is zero but for a spike that no finite difference sees. With second moments of the
gradient's own size the same arithmetic is smooth, and there it is certified.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from vfunc.problem import ValueProblem, construct_task, pretrain_gradient
from vfunc.simulate import (
    Adadelta,
    Adafactor,
    Adagrad,
    Adam,
    Adamax,
    NAdam,
    RAdam,
    RMSprop,
    TensorState,
)
from vfunc.simulate.rule import Rule
from vfunc.trees import Params

ROOTS: dict[type, tuple[str, ...]] = {
    NAdam: ("exp_avg_sq",),
    RAdam: ("exp_avg_sq",),
    RMSprop: ("square_avg",),
    Adadelta: ("square_avg",),
    Adagrad: ("sum",),
    Adamax: ("exp_inf",),
    Adafactor: ("variance", "row_var", "col_var"),
}
"""What the other optimizers divide by, or by the root of: fresh, they step by signs too."""

OTHERS_NOTE = (
    "the optimizer's second moments were raised to the gradient's size for this check: in a fresh "
    "state its step is next to a sign, and has no finite difference"
)

SHARP = 1e-2
"""Relative width below which Adam's step, as a function of the gradient, counts as a sign."""

NOTE = (
    "Adam's second moments were raised to the gradient's size for this check: where they are next "
    "to nothing, as in a fresh state, its step is a sign, and has no finite difference"
)

FULL_PRECISION = (
    "Muon's iteration was made in full precision for this check: bfloat16's is a staircase, and "
    "has no finite difference"
)


def with_smooth_adam(
    problem: ValueProblem, theta: Params, phi: Params
) -> tuple[ValueProblem, str | None]:
    """The problem with Adam's second moments raised to the gradient's size where they are small.

    Where Muon steps, its iteration is made in full precision.

    Args:
        problem: the value problem.
        theta: the learner's parameters.
        phi: the designer's parameters.

    Returns:
        The problem, and a note about the change, or None if there was none.
    """
    rule = problem.rule.in_full_precision()
    muon = None
    if rule != problem.rule:
        muon = FULL_PRECISION
        domains = {n: replace(part, rule=rule) for n, part in problem.domains.items()}
        problem = replace(problem, rule=rule, domains=domains)
    task = construct_task(problem, phi, problem.batches[0]).task
    g = problem.rule.effective(pretrain_gradient(problem, theta, task))
    adam = {n: rule for n in theta if n in g and isinstance(rule := problem.rule.rule(n), Adam)}
    others = {n: rule for n in theta if n in g and type(rule := problem.rule.rule(n)) in ROOTS}
    moving = [x[x != 0].double().flatten().cpu() for x in (g[n] for n in (*adam, *others))]
    entries = torch.cat([torch.zeros(0), *moving])
    size = float(entries.pow(2).mean().sqrt()) if len(entries) else 0.0
    warm = {n: _raised(rule, problem.state.get(n), g[n], size) for n, rule in others.items()}
    warm = {n: state for n, state in warm.items() if state is not problem.state.get(n)}
    notes = [OTHERS_NOTE] if warm else []
    if any(_is_sharp(rule, problem.state.get(n), g[n], size) for n, rule in adam.items()):
        warm |= {n: _warmed(rule, problem.state.get(n), g[n], size) for n, rule in adam.items()}
        notes.append(NOTE)
    notes += [muon] if muon else []
    if warm:
        state = {**problem.state, **warm}
        domains = {name: replace(part, state=state) for name, part in problem.domains.items()}
        problem = replace(problem, state=state, domains=domains)
    return problem, "; ".join(notes) or None


def _raised(rule: Rule, state: TensorState | None, g: Tensor, size: float) -> TensorState | None:
    """The state with what the rule divides by at least of the gradient's size; itself if it is."""
    given, state = state, state or TensorState()
    least = 2 * size if isinstance(rule, Adamax) else size**2
    _, stepped = rule.step(torch.zeros_like(g), state, torch.zeros_like(g))  # what there is to keep
    buffers = {name: state.buffers.get(name, x) for name, x in stepped.buffers.items()}
    roots = [name for name in ROOTS[type(rule)] if name in buffers]
    if all(bool((buffers[name] >= SHARP**2 * least).all()) for name in roots):
        return given
    buffers |= {name: buffers[name].clamp(min=least) for name in roots}
    return TensorState(max(state.step, 1), buffers, state.scalars)


def _is_sharp(rule: Adam, state: TensorState | None, g: Tensor, size: float) -> bool:
    """Whether the step turns, in some entry that moves, over much less than |g|."""
    state = state or TensorState()
    b2 = rule.betas[1]
    v = _buffers(state, g)["exp_avg_sq"]
    # sqrt(v+ / c2) + eps as a function of g: both terms of its width, in units of g
    width = ((b2 * v).sqrt() + (1 - b2 ** (state.step + 1)) ** 0.5 * rule.eps) / (1 - b2) ** 0.5
    return bool((width[g != 0] < SHARP * size).any())


def _warmed(rule: Adam, state: TensorState | None, g: Tensor, size: float) -> TensorState:
    """The state with second moments that weigh as much in the root as a gradient of `size`."""
    state = state or TensorState()
    b2 = rule.betas[1]
    buffers = _buffers(state, g)
    least = size**2 * (1 - b2) / b2 if b2 else 0.0
    second = buffers["exp_avg_sq"].clamp(min=least)
    return TensorState(max(state.step, 1), {**buffers, "exp_avg_sq": second})


def _buffers(state: TensorState, g: Tensor) -> Mapping[str, Tensor]:
    initial = {"exp_avg": torch.zeros_like(g), "exp_avg_sq": torch.zeros_like(g)}
    return {**initial, **state.buffers}
