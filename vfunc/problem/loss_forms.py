"""What a problem can say of a loss: linear in the task, convex in the outputs, a sum of parts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from vfunc.errors import UserError
from vfunc.trees import Params, Scalar

Task: TypeAlias = dict[str, Tensor]
"""A constructed self-supervised task c_phi(B_u): inputs, targets and side information by name."""


@dataclass(frozen=True)
class LinearForm:
    """States that the self-supervised loss is linear in one entry of the task.

    L_pre(theta; c) = <c[target], coefficients(theta, c)>, where `coefficients` does not read
    c[target]. For soft targets q over candidates, the coefficients are -log p_theta of the
    candidates times each position's weight. It is what the `linear` engine lives on: the mixed
    derivative in q is the tangent of the coefficients, and no backward pass through the learner
    is needed.

    Attributes:
        target: the task's entry that carries phi; the only one that may depend on it.
        coefficients: (theta, task) -> a tensor of the target's shape.
        tangent: (theta, w, task) -> the derivative of the coefficients along w, where the problem
            has a cheaper way to it than forward mode through `coefficients`; None takes that.
    """

    target: str
    coefficients: Callable[..., Tensor]
    tangent: Callable[..., Tensor] | None = None


@dataclass(frozen=True)
class CompositeForm:
    """States that the self-supervised loss is a convex function of the learner's outputs.

    L_pre(theta; c) = loss(outputs(theta, c), c), `loss` convex in the outputs: its Gauss-Newton
    matrix J^T (d2 loss / d outputs2) J, J = d outputs / d theta, is positive semi-definite
    (Schraudolph, 2002). For soft targets the outputs are the logits.

    Attributes:
        outputs: (theta, task) -> one tensor, differentiable in theta.
        loss: (outputs, task) -> L_pre.
    """

    outputs: Callable[..., Tensor]
    loss: Callable[[Tensor, Task], Scalar]


@dataclass(frozen=True)
class InParts:
    """A loss that is a sum of parts: a mean over more examples than memory has room for at once.

    Called, it is the sum, as any loss, with the graphs of all parts. `feedback_gradient` and
    `feedback_value` go through it part by part instead, so that their memory is one part's. Each
    part divides by what the whole is a mean over (all examples' tokens, not its own): nothing here
    weighs them, and a loss with statistics over its batch has no such parts.

    Attributes:
        parts: theta -> its part, at least one; a part may be constant.
    """

    parts: tuple[Callable[[Params], Scalar], ...]

    def __post_init__(self) -> None:
        if not isinstance(self.parts, tuple) or not self.parts:
            raise UserError("InParts needs a tuple of the loss's parts, at least one")

    def __call__(self, theta: Params) -> Scalar:
        """The sum."""
        terms = [part(theta) for part in self.parts]
        return sum(terms[1:], terms[0])
