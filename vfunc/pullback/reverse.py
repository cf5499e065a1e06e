"""Reverse over reverse: double backward in plain autograd. The reference engine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from vfunc import trees
from vfunc.pullback.engine import MixedProduct, Passes, ProductRequest
from vfunc.pullback.memory import require_room
from vfunc.trees import Params


@dataclass(frozen=True)
class Reverse:
    """grad_c <w, grad_theta L_pre> by a backward pass through the backward pass.

    Plain autograd rather than nested `torch.func.grad`: 0.8 of the time and 0.6 of the memory.

    Attributes:
        watch_memory: whether to stop after the forward where the rest would not fit the device.
    """

    watch_memory: bool = False

    name: str = "reverse"
    differentiates_attention: bool = True

    def refusal(self, request: ProductRequest) -> str | None:
        """See `Engine.refusal`; it always applies."""
        return None

    def __call__(self, request: ProductRequest) -> MixedProduct:
        """See `Engine.__call__`.

        Raises:
            MemoryShortError: with `watch_memory`; one forward has been spent.
        """
        theta, made = trees.leaves(request.theta), trees.leaves(request.made)
        with torch.enable_grad():
            loss = request.loss(theta, made)
            if self.watch_memory:
                require_room(loss)
            g_pre = trees.zeros_like(theta)
            if loss.requires_grad:
                grads = torch.autograd.grad(
                    loss, list(theta.values()), create_graph=True, materialize_grads=True
                )
                g_pre = dict(zip(theta, grads, strict=True))
            inner = trees.dot(request.w, g_pre)
            products = trees.gradient(inner, _joined(made, theta if request.hessian else {}))
        return MixedProduct(
            inner.detach(),
            {name: products[f"task {name}"] for name in made},
            {name: products[f"theta {name}"] for name in theta} if request.hessian else None,
            Passes(forwards=1, backwards=2),
        )


def _joined(task: Params, theta: Params) -> Params:
    """One dict of both, so that one backward pass serves both; the names cannot collide."""
    return {f"task {n}": x for n, x in task.items()} | {f"theta {n}": x for n, x in theta.items()}
