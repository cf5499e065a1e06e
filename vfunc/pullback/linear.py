"""Linear objectives: one forward-mode pass of the learner, no backward through it."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc import trees
from vfunc.problem import LinearForm, Task, ValueProblem
from vfunc.pullback.engine import MixedProduct, Passes
from vfunc.pullback.tangent import tangent_along
from vfunc.trees import Params


@dataclass(frozen=True)
class Linear:
    """For L_pre = <q, b(theta)>: grad_q <w, g_pre> is the tangent of b along w.

    b is the problem's `LinearForm.coefficients`. Its tangent along g_down, entry by entry, is the
    value of a unit of target mass there: what a token value map draws. There is no Hessian-vector
    product in it.
    """

    name: str = "linear"
    differentiates_attention: bool = True

    def refusal(
        self, linear: LinearForm | None, designed: tuple[str, ...], *, hessian: bool
    ) -> str | None:
        """See `Engine.refusal`: the problem must say how it is linear, in all that phi makes."""
        if hessian:
            return "it gives no Hessian-vector product, which an adjoint over several steps needs"
        if linear is None:
            return "the problem declares no `linear` form of its objective"
        others = [name for name in designed if name != linear.target]
        if others:
            return f"the designer also makes {others}, in which the objective is not linear"
        return None

    def __call__(
        self,
        problem: ValueProblem,
        theta: Params,
        task: Task,
        designed: tuple[str, ...],
        w: Params,
        *,
        hessian: bool,
    ) -> MixedProduct:
        """See `Engine.__call__`."""
        linear = problem.linear
        assert linear is not None  # refusal() comes first
        _, tangent = tangent_along(lambda t: linear.coefficients(t, task), theta, w)
        tangent = tangent.detach()
        return MixedProduct(
            trees.dot({"q": task[linear.target]}, {"q": tangent}),
            {linear.target: tangent.to(task[linear.target].dtype)} if designed else {},
            None,
            Passes(tangents=1),
        )
