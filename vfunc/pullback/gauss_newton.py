"""Products with the Gauss-Newton matrix of a loss that is convex in the learner's outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vfunc import trees
from vfunc.forward_pass import round_off
from vfunc.problem import CompositeForm, Task
from vfunc.problem.pieces_of_code import code_of, first_time, remember
from vfunc.pullback.custom_functions import TANGENT, same
from vfunc.pullback.engine import Passes
from vfunc.pullback.finite_difference import require_kept, step_length
from vfunc.pullback.graph import custom_functions
from vfunc.pullback.missing import MissingDerivativeError
from vfunc.pullback.overridden.frozen_weights import frozen_weights_once
from vfunc.pullback.stop_gradients import IN_THETA
from vfunc.trees import Params, tangent_along


@dataclass(frozen=True)
class GaussNewton:
    """x -> G x at one point, G = J^T (d2 loss / d outputs2) J, J = d outputs / d theta.

    (Schraudolph, 2002.) Read from right to left: J x is a tangent pass; its product with the
    loss's Hessian in the outputs is the tangent of that loss's gradient, and no pass through the
    learner; J^T is a plain backward pass through a forward that all products share. So m products
    cost 1 forward, m tangent passes and m backwards.

    Attributes:
        composite: how the loss is made of the outputs.
        theta: the point.
        task: the task, detached.
        leaves: theta as autograd leaves.
        outputs: the learner's outputs there, with their graph.
        fd_step: |eps x| of a central difference in place of the tangent pass (two forwards), for
            kernels without a forward mode; None takes the tangent.
        compute_dtype: what the loss is computed in, where that is coarser than theta.
    """

    composite: CompositeForm
    theta: Params
    task: Task
    leaves: Params
    outputs: Tensor
    fd_step: float | None
    compute_dtype: torch.dtype | None = None

    @staticmethod
    def at(
        composite: CompositeForm,
        theta: Params,
        task: Task,
        *,
        differences: bool = False,
        compute_dtype: torch.dtype | None = None,
    ) -> GaussNewton:
        """The matrix at (theta, task): one forward of the learner.

        Args:
            composite: the form of the loss.
            theta: the point.
            task: the task.
            differences: whether J x is to be a central difference.
            compute_dtype: what the loss is computed in, where that is coarser than theta.
        """
        task, leaves = trees.detach(task), trees.leaves(theta)
        with torch.enable_grad():
            outputs = composite.outputs(leaves, task)
        step = step_length(theta, compute_dtype) if differences else None
        point = trees.detach(theta)
        return GaussNewton(composite, point, task, leaves, outputs, step, compute_dtype)

    built = Passes(forwards=1)
    """What `at` spends."""

    @property
    def one(self) -> Passes:
        """What a product spends."""
        if self.fd_step is None:
            return Passes(backwards=1, tangents=1)
        return Passes(forwards=2, backwards=1)

    def __call__(self, x: Params) -> Params:
        """G x, shaped like theta."""
        z = {"outputs": self.outputs.detach()}
        along = {"outputs": self._outputs_along(x).to(self.outputs.dtype)}
        gradient = torch.func.grad(lambda z: self.composite.loss(z["outputs"], self.task))
        _, curved = tangent_along(gradient, z, along)
        if not self.outputs.requires_grad:
            return trees.zeros_like(self.theta)
        grads = torch.autograd.grad(
            self.outputs,
            list(self.leaves.values()),
            curved["outputs"].detach(),
            retain_graph=True,
            materialize_grads=True,
        )
        return dict(zip(self.leaves, grads, strict=True))

    def _outputs_along(self, x: Params) -> Tensor:
        """J x."""

        def outputs(theta: Params) -> Tensor:
            return self.composite.outputs(theta, self.task)

        if self.fd_step is None:
            self._require_transposed(outputs)
            with frozen_weights_once():
                return tangent_along(outputs, self.theta, x)[1].detach()
        length = float(trees.norm(x))
        if length == 0.0:
            return torch.zeros_like(self.outputs)
        require_kept(self.theta, x, self.fd_step, length, self.compute_dtype)
        eps = self.fd_step / length
        with torch.enable_grad():
            plus = outputs(trees.axpy(eps, x, self.theta)).detach()
            minus = outputs(trees.axpy(-eps, x, self.theta)).detach()
        return (plus - minus) / (2 * eps)

    def _require_transposed(self, outputs: Callable[[Params], Tensor]) -> None:
        """Check J against its transpose, <J J^T v, v> = |J^T v|^2, once for each piece of code.

        Raises:
            MissingDerivativeError: they differ: forward mode goes through operators of
                `torch.library` as through constants, and through `torch.no_grad()` as through none.
        """
        key = (code_of(self.composite.outputs), "J and its transpose")
        if not self.outputs.requires_grad or not first_time(key):
            return
        v = trees.normal_like({"v": self.outputs.detach()}, torch.Generator().manual_seed(0))
        back = torch.autograd.grad(
            self.outputs,
            list(self.leaves.values()),
            v["v"],
            retain_graph=True,
            materialize_grads=True,
        )
        transposed = dict(zip(self.leaves, back, strict=True))
        _, tangent = tangent_along(outputs, self.theta, transposed)
        wanted = float(trees.dot(transposed, transposed))
        found = float(trees.dot({"v": tangent.detach()}, v))
        if not same(found, wanted, wanted, round_off(tangent.dtype)):
            names = " or ".join(custom_functions([self.outputs]))
            raise MissingDerivativeError("forward", names or IN_THETA, TANGENT)
        remember(key)
