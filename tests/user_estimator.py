"""An estimator as a user would write it, in a module of their own."""

from __future__ import annotations

from dataclasses import dataclass

import vfunc


@dataclass(frozen=True)
class TwoBatches:
    """First-order value of one step on the mean of two batches."""

    share: float = 0.5

    def __call__(self, problem, theta, phi):
        parts = []
        for batch in problem.batches[:2]:
            construction = vfunc.construct_task(problem, phi, batch)
            _, g_down = vfunc.feedback_gradient(problem, theta)
            pulled = vfunc.pull_back(problem, theta, construction, g_down)
            parts.append((pulled.inner, pulled.grad))
        weights = (self.share, 1 - self.share)
        value = sum(w * inner for w, (inner, _) in zip(weights, parts, strict=True))
        grad = {n: sum(w * g[n] for w, (_, g) in zip(weights, parts, strict=True)) for n in phi}
        return vfunc.ValueEstimate(value, value, grad, 1.0, {})


def not_an_estimator():
    return 3


def an_estimator(problem, theta, phi, *, share=0.5):
    return TwoBatches(share)(problem, theta, phi)
