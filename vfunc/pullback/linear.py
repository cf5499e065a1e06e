"""Linear objectives: one forward-mode pass of the learner, no backward through it."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc import trees
from vfunc.pullback.engine import MixedProduct, Passes, ProductRequest
from vfunc.pullback.overridden.attention import attention_in_blocks
from vfunc.pullback.overridden.frozen_weights import frozen_weights_once


@dataclass(frozen=True)
class Linear:
    """For L_pre = <q, b(theta)>: grad_q <w, g_pre> is the tangent of b along w.

    b is the problem's `LinearForm.coefficients`. Its tangent along g_down, entry by entry, is the
    value of a unit of target mass there: what a token value map draws. There is no Hessian-vector
    product in it.
    """

    name: str = "linear"
    differentiates_attention: bool = True

    def refusal(self, request: ProductRequest) -> str | None:
        """See `Engine.refusal`: the problem must say how it is linear, in all that phi makes."""
        linear = request.problem.linear
        if request.hessian:
            return "it gives no Hessian-vector product, which an adjoint over several steps needs"
        if linear is None:
            return "the problem declares no `linear` form of its objective"
        others = [name for name in request.designed if name != linear.target]
        if others:
            return f"the designer also makes {others}, in which the objective is not linear"
        return None

    def __call__(self, request: ProductRequest) -> MixedProduct:
        """See `Engine.__call__`."""
        linear = request.problem.linear
        assert linear is not None  # refusal() comes first
        with attention_in_blocks(), frozen_weights_once():
            tangent = request.tangent()
        target = request.task[linear.target]
        return MixedProduct(
            trees.dot({"q": target}, {"q": tangent}),
            {linear.target: tangent.to(target.dtype)} if request.designed else {},
            None,
            Passes(tangents=1),
        )
