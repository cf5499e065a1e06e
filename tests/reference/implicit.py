"""Slow oracle of the implicit value: dense Hessian, dense mixed derivative, dense solve."""

from __future__ import annotations

import torch


def implicit(problem, theta, phi, damping):
    """L_down(theta) - L_down(theta*), and its gradient in phi by the implicit function theorem."""
    center = _vector(theta)
    phi_0 = _vector(phi)

    def loss(t, f):
        task = problem.construct(_named(f, phi), problem.batches[0])
        shift = t - center
        return problem.pretrain_loss(_named(t, theta), task) + 0.5 * damping * shift @ shift

    gradient = torch.func.grad(loss)
    hessian = torch.func.jacrev(gradient)
    star = center.clone()
    for _ in range(60):
        step = torch.linalg.solve(hessian(star, phi_0), gradient(star, phi_0))
        star = star - step
        if float(step.norm()) < 1e-15 * (1 + float(star.norm())):
            break
    assert float(gradient(star, phi_0).norm()) < 1e-11
    down = torch.func.grad(lambda t: problem.feedback_loss(_named(t, theta)))(star)
    mixed = torch.func.jacrev(gradient, argnums=1)(star, phi_0)
    star_by_phi = -torch.linalg.solve(hessian(star, phi_0), mixed)
    value = problem.feedback_loss(theta) - problem.feedback_loss(_named(star, theta))
    return float(value), _named(-(down @ star_by_phi), phi)


def _vector(params):
    return torch.cat([x.detach().flatten() for x in params.values()])


def _named(vector, like):
    parts = vector.split([x.numel() for x in like.values()])
    return {n: part.view(x.shape) for (n, x), part in zip(like.items(), parts, strict=True)}
