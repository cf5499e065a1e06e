"""What the elements of a designed task are worth, noted while an estimate is pulled back."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from vfunc.processes import ALONE, Processes
from vfunc.trees import Scalar


@dataclass
class Gains:
    """The derivatives of an objective in the gates of a task, as they come by on the way to phi.

    They cost nothing: the pullback goes through the gates anyway.

    Attributes:
        found: the absolute derivatives of each gate tensor, summed, in float32 at least.
    """

    found: list[Scalar] = field(default_factory=list)

    def watch(self, gate: Tensor) -> None:
        """Note the derivatives in these gates each time that something is pulled back through them.

        Args:
            gate: gates with their graph to phi; those that L_pre does not read have derivatives 0.
        """
        if gate.requires_grad:
            gate.register_hook(self._note)

    def _note(self, gain: Tensor) -> None:
        wide = torch.promote_types(gain.dtype, torch.float32)
        self.found.append(gain.detach().to(wide).abs().sum())

    def typical(self, scale: float, problems: int = 1, processes: Processes = ALONE) -> float:
        """The mean |value| of an element, in units of what the designer minimises, objective / s.

        With n elements in all tasks of the estimate, the value v_t of one is n d(objective / s) /
        d(gate_t): what opening this gate adds, where opening all of them by as much adds the mean
        of the v_t. Their mean absolute value is therefore the sum of the derivatives', for any n;
        a penalty of lambda times this on the mean gate outweighs values below lambda times it.

        Args:
            scale: s.
            problems: how many problems' estimates a mean was taken of (matched domains).
            processes: the processes that each hold a share of the elements.

        Returns:
            The value; 0.0 where nothing was pulled back.
        """
        total = float(sum(self.found[1:], self.found[0])) if self.found else 0.0
        (whole,) = processes.totals(total)
        return whole / (abs(scale) * problems)
