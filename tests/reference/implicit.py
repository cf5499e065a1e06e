"""Slow oracle of the implicit value: dense Hessian, dense mixed derivative, dense solve."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Dense:
    """Everything at one point theta, as matrices; w @ mixed is w pulled back to phi."""

    theta: Tensor
    down: Tensor
    hessian: Tensor
    gauss_newton: Tensor | None
    mixed: Tensor
    phi: dict[str, Tensor]

    def pulled(self, w):
        """The pullback of the direction w."""
        return _named(w @ self.mixed, self.phi)


def implicit(problem, theta, phi, damping):
    """L_down(theta) - L_down(theta*), and its gradient in phi by the implicit function theorem."""
    star = optimum(problem, theta, phi, damping)
    at = dense(problem, star, phi)
    value = problem.feedback_loss(theta) - problem.feedback_loss(star)
    damped = at.hessian + damping * torch.eye(len(at.theta))
    return float(value), at.pulled(torch.linalg.solve(damped, at.down))


def optimum(problem, theta, phi, damping):
    """theta* = argmin L_pre + (damping / 2) |. - theta|^2, by plain Newton steps."""
    center = _vector(theta)
    task = {n: x.detach() for n, x in problem.construct(phi, problem.batches[0]).items()}

    def loss(t):
        shift = t - center
        return problem.pretrain_loss(_named(t, theta), task) + 0.5 * damping * shift @ shift

    gradient = torch.func.grad(loss)
    hessian = torch.func.jacrev(gradient)
    star = center.clone()
    for _ in range(60):
        step = torch.linalg.solve(hessian(star), gradient(star))
        star = star - step
        if float(step.norm()) < 1e-15 * (1 + float(star.norm())):
            break
    assert float(gradient(star).norm()) < 1e-11
    return _named(star, theta)


def newton_steps(problem, theta, phi, damping, steps, *, gauss_newton):
    """theta after so many Newton steps on the proximal problem, and the gradient that remains.

    Conjugate gradient on the matrix itself, to min(0.1, gap) of the gradient, gap its size
    relative to the first; then halving until the objective falls by a quarter of its slope.
    """
    task = {n: x.detach() for n, x in problem.construct(phi, problem.batches[0]).items()}
    shift = torch.zeros_like(_vector(theta))

    def loss(d):
        return problem.pretrain_loss(_named(_vector(theta) + d, theta), task) + damping / 2 * d @ d

    g = torch.func.grad(loss)(shift)
    first = g.norm()
    for _ in range(steps):
        at = dense(problem, _named(_vector(theta) + shift, theta), phi)
        matrix = at.gauss_newton if gauss_newton else at.hessian
        matrix = matrix + damping * torch.eye(len(shift))
        enough = min(0.1, float(g.norm() / first)) * g.norm()
        move, r, p = torch.zeros_like(g), -g, -g
        while r.norm() > enough:
            length = r @ r / (p @ matrix @ p)
            move, after = move + length * p, r - length * matrix @ p
            r, p = after, after + (after @ after) / (r @ r) * p
        length = 1.0
        while loss(shift + length * move) > loss(shift) + 0.25 * length * g @ move:
            length /= 2
        shift = shift + length * move
        g = torch.func.grad(loss)(shift)
    return _named(_vector(theta) + shift, theta), float(g.norm() / first)


def dense(problem, theta, phi):
    """The matrices at theta."""
    point, phi_0 = _vector(theta), _vector(phi)

    def loss(t, f):
        task = problem.construct(_named(f, phi), problem.batches[0])
        return problem.pretrain_loss(_named(t, theta), task)

    gradient = torch.func.grad(loss)
    down = torch.func.grad(lambda t: problem.feedback_loss(_named(t, theta)))(point)
    task = {n: x.detach() for n, x in problem.construct(phi, problem.batches[0]).items()}
    curved = None
    if problem.composite is not None:

        def outputs(t):
            return problem.composite.outputs(_named(t, theta), task).flatten()

        shape = problem.composite.outputs(theta, task).shape
        jacobian = torch.func.jacrev(outputs)(point)
        of_loss = torch.func.jacrev(
            torch.func.grad(lambda z: problem.composite.loss(z.view(shape), task))
        )
        curved = jacobian.T @ of_loss(outputs(point).detach()) @ jacobian
    return Dense(
        point,
        down,
        torch.func.jacrev(gradient)(point, phi_0),
        curved,
        torch.func.jacrev(gradient, argnums=1)(point, phi_0),
        phi,
    )


def _vector(params):
    return torch.cat([x.detach().flatten() for x in params.values()])


def _named(vector, like):
    parts = vector.split([x.numel() for x in like.values()])
    return {n: part.view(x.shape) for (n, x), part in zip(like.items(), parts, strict=True)}
