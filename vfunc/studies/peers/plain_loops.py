"""The lookahead as it is published: a loop of differentiable steps, and one backward through it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from vfunc import trees
from vfunc.studies.peers.mlp_problem import Lookahead, Step
from vfunc.trees import Params

Moments = dict[str, Params]
Gradient = Callable[[Params, Params], Params]


def naive_autograd(asked: Lookahead) -> Params:
    """d L_down(theta_K) / d phi by a double backward through all steps, in plain autograd."""

    def gradient(theta: Params, task: Params) -> Params:
        loss = asked.inner(theta, task)
        grads = torch.autograd.grad(loss, list(theta.values()), create_graph=True)
        return dict(zip(theta, grads, strict=True))

    phi, theta = trees.leaves(asked.phi), trees.leaves(asked.theta)
    return trees.gradient(_outer(asked, theta, phi, gradient), phi)


def nested_func(asked: Lookahead) -> Params:
    """The same by `torch.func.grad` around a loop of `torch.func.grad`."""
    inner = torch.func.grad(asked.inner)
    return torch.func.grad(lambda phi: _outer(asked, asked.theta, phi, inner))(asked.phi)


def _outer(asked: Lookahead, theta: Params, phi: Params, gradient: Gradient) -> torch.Tensor:
    moments: Moments = {}
    for k in range(asked.steps):
        g = gradient(theta, asked.task(phi, k))
        theta, moments = stepped(asked.step, theta, g, moments, k + 1)
    return asked.outer(theta)


def stepped(
    step: Step, theta: Params, g: Params, moments: Moments, t: int
) -> tuple[Params, Moments]:
    """One step by the formulas of torch.optim's documentation.

    Args:
        step: the optimizer.
        theta: the parameters.
        g: their gradient.
        moments: momentum, or both moments; none before the first step.
        t: the number of this step, from 1.
    """
    if step.kind == "sgd":
        before = moments.get("momentum", trees.zeros_like(theta))
        momentum = {n: step.momentum * before[n] + x for n, x in g.items()}
        return trees.axpy(-step.lr, momentum, theta), {"momentum": momentum}
    b1, b2 = step.betas
    m0 = moments.get("first", trees.zeros_like(theta))
    v0 = moments.get("second", trees.zeros_like(theta))
    m = {n: b1 * m0[n] + (1 - b1) * x for n, x in g.items()}
    v = {n: b2 * v0[n] + (1 - b2) * x * x for n, x in g.items()}
    decay = 1 - step.lr * step.decay if step.kind == "adamw" else 1.0
    after = {
        n: decay * p - step.lr * (m[n] / (1 - b1**t)) / ((v[n] / (1 - b2**t)).sqrt() + step.eps)
        for n, p in theta.items()
    }
    return after, {"first": m, "second": v}
