"""Slow oracle of the lookahead: a plain autograd loop through torch.optim's update formulas.

Written anew from the documentation of torch.optim and clip_grad_norm_, in differentiable
operations; nothing of the package's simulation is used.
"""

from __future__ import annotations

import torch


def unrolled(problem, theta, phi, optimizer, steps, first=0, windows=None):
    """L_down(theta_0) - L_down(theta_K), and its gradient in phi, by reverse mode through it all.

    The tasks of steps before `first` are held constant. `windows` has the shares of each step's
    micro-batches; by default the first step ends its window, and later ones have whole windows
    where there are the batches for them.
    """
    if windows is None:
        count = round(1 / optimizer.weight)
        count = count if 1 + (steps - 1) * count <= len(problem.batches) else 1
        windows = [[optimizer.weight], *[[1 / count] * count] * (steps - 1)]
    unseen = list(problem.batches)
    phi = {n: x.detach().clone().requires_grad_() for n, x in phi.items()}
    point = {n: x.detach().clone().requires_grad_() for n, x in theta.items()}
    before = problem.feedback_loss(point).detach()
    taken = optimizer.steps
    buffers = {n: dict(b) for n, b in optimizer.buffers.items()}
    for k in range(steps):
        designed = phi if k >= first else {n: x.detach() for n, x in phi.items()}
        g = {}
        for share in windows[k]:
            task = problem.construct(designed, unseen.pop(0))
            loss = share * problem.pretrain_loss(point, task)
            grads = torch.autograd.grad(
                loss, list(point.values()), create_graph=True, allow_unused=True
            )
            # what the loss does not reach has no .grad, and torch.optim skips it
            for n, x in zip(point, grads, strict=True):
                if x is not None:
                    g[n] = g[n] + x if n in g else x
        if k == 0:  # later steps have windows of their own
            for n, x in (optimizer.accumulated or {}).items():
                g[n] = x + g[n] if n in g else x
        if optimizer.max_norm is not None:
            squares = sum((x**2).sum() for x in g.values()) + optimizer.outside**2
            g = {n: x * clip_factor(squares**0.5, optimizer.max_norm) for n, x in g.items()}
        moved = dict(point)
        for n in g:
            update = _sgd if optimizer.kind == "sgd" else _adam
            t = taken + k + 1
            moved[n], buffers[n] = update(point[n], g[n], buffers.get(n, {}), t, optimizer)
        point = moved
    after = problem.feedback_loss(point)
    grads = torch.autograd.grad(after, list(phi.values()), allow_unused=True)
    grad = {
        n: torch.zeros_like(x) if d is None else -d
        for (n, x), d in zip(phi.items(), grads, strict=True)
    }
    return float(before - after.detach()), grad


def clip_factor(norm, max_norm):
    """clip_grad_norm_'s factor."""
    return torch.minimum(max_norm / (norm + 1e-6), torch.ones(()))


def _sgd(p, g, buffers, t, o):
    g = g + o.weight_decay * p
    if o.momentum == 0:
        return p - o.lr * g, {}
    if "momentum_buffer" in buffers:
        b = o.momentum * buffers["momentum_buffer"] + (1 - o.dampening) * g
    else:
        b = g
    return p - o.lr * (g + o.momentum * b if o.nesterov else b), {"momentum_buffer": b}


def _adam(p, g, buffers, t, o):
    beta1, beta2 = o.betas
    if o.kind == "adamw":
        p = p - o.lr * o.weight_decay * p
    else:
        g = g + o.weight_decay * p
    m = beta1 * buffers.get("exp_avg", 0.0) + (1 - beta1) * g
    v = beta2 * buffers.get("exp_avg_sq", 0.0) + (1 - beta2) * g**2
    m_hat, v_hat = m / (1 - beta1**t), v / (1 - beta2**t)
    return p - o.lr * m_hat / (v_hat**0.5 + o.eps), {"exp_avg": m, "exp_avg_sq": v}
