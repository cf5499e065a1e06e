"""Plain gradients of a problem's two losses in theta."""

from __future__ import annotations

import torch

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem.arguments import ORDER, entry, scalar
from vfunc.problem.loss_forms import Task
from vfunc.problem.purity import using
from vfunc.problem.question import ValueProblem
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed


@entry
@typed
def pretrain_gradient(problem: ValueProblem, theta: Params, task: Task) -> Params:
    """g_pre = grad_theta L_pre(theta; task), the task held constant."""
    theta = trees.leaves(theta)
    with torch.enable_grad(), using(problem.pretrain_loss, "pretrain_loss", theta=theta, task=task):
        loss = problem.pretrain(theta, trees.detach(task))
        return trees.gradient(scalar("pretrain_loss", loss), theta)


@entry
@typed
def step_gradient(problem: ValueProblem, theta: Params, task: Task) -> Params:
    """g_pre as the optimizer's step takes it: parameters that L_pre does not reach are absent.

    A backward pass leaves their `.grad` None, and `torch.optim` then leaves the parameters and
    their state as they are: no decay, no momentum.
    """
    theta = trees.leaves(theta)
    with torch.enable_grad(), using(problem.pretrain_loss, "pretrain_loss", theta=theta, task=task):
        loss = problem.pretrain(theta, trees.detach(task))
        return trees.reached_gradient(scalar("pretrain_loss", loss), theta)


@entry
@typed
def feedback_gradient(problem: ValueProblem, theta: Params) -> tuple[Scalar, Params]:
    """L_down(theta) and g_down = grad L_down(theta), both detached.

    Raises:
        UserError: `feedback_loss` returned no scalar tensor, or one without a graph to theta, whose
            value no task could change, in a problem that does not say so (`silent`).
    """
    theta = trees.leaves(theta)
    with torch.enable_grad(), using(problem.feedback_loss, "feedback_loss", theta=theta):
        loss = scalar("feedback_loss", problem.feedback_loss(theta))
        if problem.silent and not loss.requires_grad:
            return loss, trees.zeros_like(theta)
        if not loss.requires_grad:
            raise UserError(
                "feedback_loss returned a tensor without a graph to theta "
                f"{trees.described(theta)}: look for .detach() or torch.no_grad() in it, or for "
                f"parameters that are not theta's; {ORDER}"
            )
        return loss.detach(), trees.gradient(loss, theta)
