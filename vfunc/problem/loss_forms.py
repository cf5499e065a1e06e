"""What a problem can say of its loss: that it is linear in the task, or convex in the outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from torch import Tensor

from vfunc.trees import Scalar

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
