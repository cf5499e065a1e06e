"""A task made by the designer, and the way back from it to phi."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.problem.arguments import blaming, entry, require_task
from vfunc.problem.loss_forms import Task
from vfunc.problem.purity import using
from vfunc.problem.question import ValueProblem
from vfunc.trees import Params
from vfunc.typecheck import typed


@dataclass(frozen=True, repr=False)
class Construction:
    """A task c_phi(B), detached for the learner's transforms, and the way back from it to phi.

    Attributes:
        task: every entry detached.
        designed: names of the entries that depend on phi.
        live: those entries with their graph back to `phi`.
        phi: the autograd leaves they were made from.
    """

    task: Task
    designed: tuple[str, ...]
    live: Mapping[str, Tensor]
    phi: Params

    def pull(self, cotangents: Mapping[str, Tensor]) -> Params:
        """Plain vector-Jacobian product through the designer alone: grad_phi <cotangents, c_phi>.

        The graph is kept, so that several directions can be pulled back through one task.
        """
        if not self.designed:
            return trees.zeros_like(self.phi)
        with blaming("construct's backward pass", phi=self.phi):
            grads = torch.autograd.grad(
                [self.live[name] for name in self.designed],
                list(self.phi.values()),
                [cotangents[name] for name in self.designed],
                allow_unused=True,
                retain_graph=True,
            )
        return {
            name: torch.zeros_like(x) if g is None else g
            for (name, x), g in zip(self.phi.items(), grads, strict=True)
        }

    def __repr__(self) -> str:
        made = f"designed={self.designed}, phi={trees.described(self.phi)}"
        return f"Construction({trees.described(self.task)}, {made})"


@entry
@typed
def construct_task(problem: ValueProblem, phi: Params, batch: Any) -> Construction:
    """Construct c_phi(batch), remembering how each entry depends on phi.

    Args:
        problem: gives `construct`.
        phi: the designer's parameters.
        batch: one unlabeled batch.

    Returns:
        The construction; `pull` takes cotangents on the task back to phi.

    Raises:
        UserError: phi is no dict of parameters that `construct` can use, or what it returns is no
            dict of tensors.
    """
    phi = trees.leaves(phi)
    with torch.enable_grad(), using(problem.construct, "construct", phi=phi):
        task = problem.construct(phi, batch)
    require_task(task)
    designed = tuple(name for name, x in task.items() if x.requires_grad)
    live = {name: task[name] for name in designed}
    return Construction(trees.detach(task), designed, live, phi)
