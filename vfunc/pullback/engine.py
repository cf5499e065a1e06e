"""What a pullback engine is: the mixed derivative of the learner's gradient, one direction at once.

An engine differentiates the inner product <w, grad_theta L_pre(theta; c)>, w held constant, in the
entries of the task c that the designer made, and on request in theta too (the Hessian-vector
product H w that an adjoint needs). It never sees phi: the plain vector-Jacobian product through
the designer is one piece of code for all engines (`Construction.pull`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from torch import Tensor

from vfunc.problem import LinearForm, Task, ValueProblem
from vfunc.trees import Params, Scalar


@dataclass(frozen=True)
class Passes:
    """Passes through the learner that were spent, by kind.

    A tangent pass is a forward-mode pass and includes its primal forward. A double backward
    counts as a forward, a backward, and the backward through both, hence two backwards.
    """

    forwards: int = 0
    backwards: int = 0
    tangents: int = 0

    def __add__(self, other: Passes) -> Passes:
        return Passes(
            self.forwards + other.forwards,
            self.backwards + other.backwards,
            self.tangents + other.tangents,
        )

    def as_diagnostics(self) -> dict[str, int]:
        """The counts as entries of an estimate's diagnostics."""
        return {
            "forwards": self.forwards,
            "backwards": self.backwards,
            "tangents": self.tangents,
        }


GRADIENT = Passes(forwards=1, backwards=1)
"""One plain gradient."""


@dataclass(frozen=True)
class MixedProduct:
    """What an engine returns.

    Attributes:
        inner: <w, g_pre>.
        task: grad_c <w, g_pre> for each designed entry of the task.
        hessian: H w = grad_theta <w, g_pre>, where it was asked for.
        passes: learner passes spent.
        diagnostics: what the engine has to say (a finite-difference step).
    """

    inner: Scalar
    task: Mapping[str, Tensor]
    hessian: Params | None
    passes: Passes
    diagnostics: Mapping[str, float] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """A way to compute a `MixedProduct`.

    Attributes:
        name: as the `engine` option spells it.
        differentiates_attention: whether the learner's attention has to support forward mode or a
            double backward (flash and memory-efficient kernels support neither).
    """

    name: str
    differentiates_attention: bool

    def refusal(
        self, linear: LinearForm | None, designed: tuple[str, ...], *, hessian: bool
    ) -> str | None:
        """Why the engine does not apply to a problem of this form, or None if it does."""
        ...

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
        """The mixed product at (theta, task) along w."""
        ...
