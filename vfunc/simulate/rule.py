"""Protocol and state of an optimizer as a pure function of one tensor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from vfunc import trees


@dataclass(frozen=True, repr=False)
class TensorState:
    """One parameter's optimizer state: steps taken, and its buffers (momentum, moments).

    Attributes:
        step: steps taken.
        buffers: what the adjoint runs through.
        scalars: numbers that depend on the count of steps alone (a running product of momenta),
            each in the live optimizer's own dtype; constant in all that is differentiated.
    """

    step: int = 0
    buffers: Mapping[str, Tensor] = field(default_factory=dict)
    scalars: Mapping[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"TensorState(step={self.step}, buffers={trees.described(self.buffers)})"


OptimizerState: TypeAlias = dict[str, TensorState]
"""State by parameter name; a name that is absent has taken no step."""

Buffers: TypeAlias = dict[str, Tensor]


@runtime_checkable
class Rule(Protocol):
    """One optimizer's arithmetic on one tensor. `lr` is the step size eta."""

    @property
    def lr(self) -> float:
        """The step size eta."""
        ...

    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """The next parameter and state."""
        ...

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """Cotangents of (p, state's buffers, g) from those of the next parameter and buffers."""
        ...
