"""Forward over reverse: the directional derivative, in theta, of the gradient in the task."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc import trees
from vfunc.pullback.engine import MixedProduct, Passes, ProductRequest
from vfunc.pullback.overridden.frozen_weights import frozen_weights_once
from vfunc.trees import Params, tangent_along


@dataclass(frozen=True)
class Forward:
    """d/d eps of grad_c L_pre(theta + eps w; c): equal to grad_c <w, grad_theta L_pre>.

    jvp of grad, never grad of jvp: reverse over forward returns wrong numbers through layer_norm
    and batch_norm without a word (pytorch issues 196700, 196699). No second-order graph is kept.
    """

    name: str = "forward"
    differentiates_attention: bool = True

    def refusal(self, request: ProductRequest) -> str | None:
        """See `Engine.refusal`; it always applies."""
        return None

    def __call__(self, request: ProductRequest) -> MixedProduct:
        """See `Engine.__call__`."""
        made, hessian = request.made, request.hessian
        if not made and not hessian:
            return _inner_alone(request)

        # what is behind a stop-gradient depends on theta in an adjoint, and does not move along w
        held = request.theta if hessian and request.problem.stop_gradient else {}

        def loss(made: Params, theta: Params, held: Params) -> Tensor:
            return request.loss(theta, made, held or None)

        groups = {"made": made, "theta": request.theta if hessian else {}, "held": held}
        wrt = tuple(i for i, group in enumerate(groups.values()) if group)

        def gradients(theta: Params) -> tuple[tuple[Params, ...], Tensor]:
            return torch.func.grad_and_value(loss, argnums=wrt)(made, theta, held)

        with frozen_weights_once():
            _, (products, inner) = tangent_along(gradients, request.theta, request.w)
        by = dict(zip([name for name, group in groups.items() if group], products, strict=True))
        by_theta = by.get("theta")
        if by_theta is not None and "held" in by:
            by_theta = trees.axpy(1.0, by["held"], by_theta)
        return MixedProduct(
            inner.detach(),
            trees.detach(by.get("made", {})),
            None if by_theta is None else trees.detach(by_theta),
            Passes(backwards=1, tangents=1),
        )


def _inner_alone(request: ProductRequest) -> MixedProduct:
    """<w, g_pre> is the tangent of the loss: nothing of the task depends on phi."""
    with frozen_weights_once():
        _, inner = tangent_along(lambda theta: request.loss(theta, {}), request.theta, request.w)
    return MixedProduct(inner.detach(), {}, None, Passes(tangents=1))
