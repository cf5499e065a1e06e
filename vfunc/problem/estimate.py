"""What a value estimator answers: a `ValueEstimate`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.trees import Params, Scalar


@dataclass(frozen=True, repr=False)
class ValueEstimate:
    """What an estimator answers.

    Attributes:
        value: the predicted decrease of L_down, in units of that loss.
        objective: the scalar that `grad` differentiates; the value itself, but for `cosine`,
            `random` and `zero`.
        grad: +d objective / d phi (an ascent direction), shaped like phi.
        scale: the unit s of the objective: a designer's optimizer minimises -objective / s, so
            that neither the learning-rate schedule nor the look-ahead rescales its step.
        diagnostics: norms, the cosine, solver residuals, learner passes, the engine and why.
        approximations: why `grad` is not the exact slope of `objective` (an adjoint cut short, a
            curvature replaced), one phrase each; empty where it is exact to rounding.
    """

    value: Scalar
    objective: Scalar
    grad: Params
    scale: float
    diagnostics: Mapping[str, float | int | bool | str]
    approximations: tuple[str, ...] = ()

    def descend(self, parameters: Mapping[str, Tensor]) -> None:
        """Add -grad / scale to the `.grad` of a designer's parameters, as a backward pass does.

        What a minimising optimizer then steps along is the descent of -objective / scale. As with
        `torch.Tensor.backward`, gradients add up until they are zeroed: a regulariser's
        `(weight * R).backward()` before or after joins in, and so do several estimates.

        Args:
            parameters: the live parameters by name, all that the estimate is for: those of
                `dict(designer.named_parameters())`, or the `live` of a `FunctionalLearner`.

        Raises:
            UserError: other names or shapes than the gradient's, or a parameter that is no leaf,
                whose `.grad` no optimizer reads; nothing has been changed.
        """
        if not isinstance(parameters, Mapping):
            raise UserError(
                f"descend takes the designer's parameters by name, not a "
                f"{type(parameters).__name__}: dict(designer.named_parameters())"
            )
        trees.require_same_structure("the estimate's grad", self.grad, parameters)
        inner = [name for name, x in parameters.items() if not x.is_leaf]
        if inner:
            raise UserError(
                f"descend fills the .grad of leaves, and {inner[0]!r} is computed from something "
                "else; give the parameters that the optimizer holds"
            )
        for name, x in parameters.items():
            step = (self.grad[name] * (-1 / self.scale)).to(x)
            x.grad = step if x.grad is None else x.grad + step

    def __repr__(self) -> str:
        engine = self.diagnostics.get("engine")
        approximate = f", approximate: {'; '.join(self.approximations)}"
        return (
            f"ValueEstimate(value={float(self.value):.6g}, objective={float(self.objective):.6g}, "
            f"grad={trees.described(self.grad)}, scale={self.scale:.6g}"
            f"{f', engine={engine!r}' if engine else ''}, {len(self.diagnostics)} diagnostics"
            f"{approximate if self.approximations else ''})"
        )
