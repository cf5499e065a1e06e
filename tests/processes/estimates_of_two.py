"""Every estimate of shared batches, beside that of one process with all of them, in float64."""

from __future__ import annotations

from dataclasses import replace

import torch
from optimizers import PLAIN, Optimizer, with_state
from shared_problem import problem_of, without_the_linear_form

import vfunc
from vfunc import trees

ALL = [slice(0, 7)], [slice(0, 5)]
SHARES = [slice(0, 4), slice(4, 7)], [slice(0, 5), slice(5, 5)]
"""Of two processes: neither as large, and the second's without feedback and without an expert."""

ESTIMATORS = {
    **{
        f"first_order {engine}": vfunc.FirstOrder(engine=engine)
        for engine in ("auto", "linear", "forward", "reverse", "finite_difference")
    },
    "first_order cosine": vfunc.FirstOrder("cosine"),
    "first_order preconditioned": vfunc.FirstOrder("preconditioned"),
    "first_order deflated": vfunc.FirstOrder("deflated", means=2),
    "first_order deflated_preconditioned": vfunc.FirstOrder("deflated_preconditioned", beta=0.7),
    "first_order deflated, next batches": vfunc.FirstOrder("deflated", means=0, mean_batches=3),
    "unrolled 1": vfunc.Unrolled(1, engine="reverse"),
    "unrolled 1 forward": vfunc.Unrolled(1, engine="forward"),
    "unrolled 4": vfunc.Unrolled(4, series=True),
    "unrolled 4 kept": vfunc.Unrolled(4, engine="reverse"),
    "unrolled 4 truncated": vfunc.Unrolled(4, truncate=2),
    "unrolled 4 checkpoints": vfunc.Unrolled(4, checkpoint_every=2),
    "implicit": vfunc.Implicit(damping=2.0),
    "implicit gauss_newton": vfunc.Implicit(damping=2.0, curvature="gauss_newton"),
    "implicit neumann": vfunc.Implicit(damping=9.0, solver=vfunc.Neumann()),
    "implicit nystrom": vfunc.Implicit(damping=2.0, solver=vfunc.Nystrom(rank=30)),
    "implicit dense": vfunc.Implicit(damping=2.0, solver=vfunc.Dense()),
    "random": vfunc.RandomDirection(),
    "zero": vfunc.Zero(),
}
OPTIMIZERS = ("sgd decay", "clip adamw")


def optimizers() -> dict[str, Optimizer]:
    """Those by name, with a state."""
    _, theta, _ = problem_of(PLAIN, *ALL, vfunc.Processes())
    return {name: with_state(name, theta, 0) for name in OPTIMIZERS}


def difference(one: vfunc.ValueEstimate, other: vfunc.ValueEstimate) -> float:
    """The largest relative difference in value, objective and gradient."""
    apart = trees.axpy(-1.0, other.grad, one.grad)
    size = float(trees.norm(other.grad))
    found = [float(trees.norm(apart)) / size if size else float(trees.norm(apart))]
    for name in ("value", "objective"):
        a, b = float(getattr(one, name)), float(getattr(other, name))
        found.append(abs(a - b) / max(abs(b), 1e-12))
    return max(found)


def means_of(problem: vfunc.ValueProblem, theta: dict, phi: dict) -> tuple[dict, ...]:
    """Gradients of later batches as means of the stream's, of all processes."""
    tasks = (vfunc.construct_task(problem, phi, batch).task for batch in problem.batches[1:3])
    return tuple(vfunc.pretrain_gradient(problem, theta, task) for task in tasks)


def differences(processes: vfunc.Processes) -> dict[str, float]:
    """How far each estimate is from that of one process, by estimator and optimizer."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    found = {}
    for optimizer, made in optimizers().items():
        whole, theta, phi = problem_of(made, *ALL, vfunc.Processes())
        own, _, _ = problem_of(made, *SHARES, processes)
        means = means_of(whole, theta, phi)
        own, whole = (replace(p, means=means) for p in (own, whole))
        for name, estimator in ESTIMATORS.items():
            bare = "linear" not in name and "auto" not in name
            ask = without_the_linear_form if bare else replace
            one, all_of_it = (estimator(ask(p), theta, phi) for p in (own, whole))
            found[f"{name}, {optimizer}"] = difference(one, all_of_it)
        pairs = ((0.5, 0.5), (0.5, 0.5))
        rule = replace(own.rule, windows=pairs, weight=0.5, closes_window=False)
        windows = (replace(p, rule=rule) for p in (own, whole))
        one, all_of_it = (vfunc.Unrolled(2)(p, theta, phi) for p in windows)
        found[f"unrolled windows, {optimizer}"] = difference(one, all_of_it)
    torch.set_default_dtype(before)
    return found
