"""Gives a rule its pullback by automatic differentiation of its `step`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from vfunc.errors import UserError
from vfunc.simulate.rule import Buffers, TensorState


class AutomaticRule(ABC):
    """A rule of which `step` alone is written; `vjp` is that step's, by automatic differentiation.

    For an optimizer of one's own: a frozen dataclass with a field `lr` and a `step`. The step is
    pure and out of place, in differentiable operations. Where automatic differentiation is not
    safe (the root of a second moment that is zero), write `vjp` too: a cotangent that is not
    finite, though what it was made from is, is refused.
    """

    lr: float

    @abstractmethod
    def step(self, p: Tensor, state: TensorState, g: Tensor) -> tuple[Tensor, TensorState]:
        """See `Rule.step`."""

    def vjp(
        self, p: Tensor, state: TensorState, g: Tensor, p_bar: Tensor, buffers_bar: Buffers
    ) -> tuple[Tensor, Buffers, Tensor]:
        """See `Rule.vjp`.

        Raises:
            UserError: the step has no derivative, or one that is not finite.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaves = {name: _leaf(x) for name, x in state.buffers.items()}
            at, by = _leaf(p), _leaf(g)
            after, moved = self.step(at, replace(state, buffers=leaves), by)
            if not after.requires_grad:
                raise UserError(
                    f"{type(self).__name__}.step returns a parameter without a graph: it has to be "
                    "made from p by differentiable operations, neither detached nor under no_grad"
                )
            outputs, bars = [after], [p_bar.to(after.dtype)]
            for name, bar in buffers_bar.items():
                if name in moved.buffers and moved.buffers[name].requires_grad:
                    outputs.append(moved.buffers[name])
                    bars.append(bar.to(moved.buffers[name].dtype))
            given = {"p": at, "g": by, **{f"buffer {n}": x for n, x in leaves.items()}}
            inputs = {name: x for name, x in given.items() if x.requires_grad}
            found = torch.autograd.grad(outputs, list(inputs.values()), bars, allow_unused=True)
        reached = {n: d for n, d in zip(inputs, found, strict=True) if d is not None}
        pulled = {n: reached[n] if n in reached else torch.zeros_like(x) for n, x in given.items()}
        self._require_finite(pulled, [*inputs.values(), *bars])
        before = {name: pulled[f"buffer {name}"] for name in leaves}
        return pulled["p"], before, pulled["g"]

    def _require_finite(self, pulled: dict[str, Tensor], given: list[Tensor]) -> None:
        if all(bool(torch.isfinite(x).all()) for x in pulled.values()):
            return
        if not all(bool(torch.isfinite(x.detach()).all()) for x in given):
            return  # what came in was not finite: the caller tells where that began
        name = next(n for n, x in pulled.items() if not torch.isfinite(x).all())
        count = int((~torch.isfinite(pulled[name])).sum())
        raise UserError(
            f"the derivative of {type(self).__name__}.step in {name} is not finite in {count} of "
            f"{pulled[name].numel()} entries, though step and inputs are (such as a root of zero): "
            "write the rule's `vjp` too"
        )


def _leaf(x: Tensor) -> Tensor:
    x = x.detach()
    return x.requires_grad_() if x.is_floating_point() else x
