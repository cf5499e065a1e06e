"""What a problem is asked for: the task that phi makes, and the plain gradients of both losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.problem.arguments import ORDER, blaming, entry, require_task, scalar
from vfunc.problem.contract import KnownFeedback, ValueProblem
from vfunc.problem.loss_forms import InParts, Task
from vfunc.problem.purity import using, version_of
from vfunc.processes import ALONE, Processes
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed


@dataclass(frozen=True, repr=False)
class Construction:
    """A task c_phi(B), detached for the learner's transforms, and the way back from it to phi.

    Attributes:
        task: every entry detached.
        designed: names of the entries that depend on phi.
        live: those entries with their graph back to `phi`.
        phi: the autograd leaves they were made from.
        batch: what they were made of; None where that is not known.
    """

    task: Task
    designed: tuple[str, ...]
    live: Mapping[str, Tensor]
    phi: Params
    batch: Any = None

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
        if self.phi and all(g is None for g in grads):
            raise UserError(
                f"construct's {', '.join(map(repr, self.designed))} has a graph, and none to phi "
                f"{trees.described(self.phi)}: a live designer has to be called with the phi that "
                "is given (torch.func.functional_call(designer, phi, ...)), and what comes from "
                "the learner or a teacher detached"
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
            dict of tensors, or it writes to phi or to the batch.
    """
    phi = trees.leaves(phi)
    with torch.enable_grad(), using(problem.construct, "construct", batch, phi=phi):
        task = problem.construct(phi, batch)
    require_task(task)
    designed = tuple(name for name, x in task.items() if x.requires_grad)
    live = {name: task[name] for name in designed}
    return Construction(trees.detach(task), designed, live, phi, batch)


@entry
@typed
def pretrain_gradient(problem: ValueProblem, theta: Params, task: Task) -> Params:
    """g_pre = grad_theta L_pre(theta; task), the task held constant."""
    theta = trees.leaves(theta)
    with torch.enable_grad(), using(problem.pretrain_loss, "pretrain_loss", theta=theta, task=task):
        loss = problem.pretrain(theta, trees.detach(task))
        g_pre = trees.gradient(scalar("pretrain_loss", loss), theta)
    return problem.processes.summed(g_pre)


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
        g_pre = trees.reached_gradient(scalar("pretrain_loss", loss), theta)
    return problem.processes.summed(g_pre, like=theta)


@entry
@typed
def feedback_gradient(problem: ValueProblem, theta: Params) -> tuple[Scalar, Params]:
    """L_down(theta) and g_down = grad L_down(theta), both detached.

    Raises:
        UserError: `feedback_loss` returned no scalar tensor, or one without a graph to theta, whose
            value no task could change, in a problem that does not say so (`silent`).
    """
    known = _known_at(problem, theta)
    if known is not None:
        return known.loss, known.gradient
    return _feedback_gradient(problem.feedback_loss, theta, problem.silent, problem.processes)


@entry
@typed
def feedback_value(problem: ValueProblem, theta: Params) -> Scalar:
    """L_down(theta), detached, as `feedback_gradient` computes it.

    With gradients switched on: without them torch takes other kernels, whose rounding would be in
    the difference of two values.

    Raises:
        UserError: as `feedback_gradient`.
    """
    known = _known_at(problem, theta)
    if known is not None:
        return known.loss
    theta = trees.leaves(theta)
    with torch.enable_grad(), using(problem.feedback_loss, "feedback_loss", theta=theta):
        free = problem.silent or not problem.processes.alone
        loss = _feedback_value(problem.feedback_loss, theta, free)
    return problem.processes.total(loss)


def known_feedback(
    feedback_loss: Callable[[Params], Scalar], theta: Params, processes: Processes = ALONE
) -> KnownFeedback:
    """L_down and g_down at theta, for problems that will be asked there.

    Args:
        feedback_loss: theta -> L_down.
        theta: the learner's parameters; estimators have to be given these very tensors.
        processes: as the problems have them.

    Raises:
        UserError: as `feedback_gradient`.
    """
    versions = {name: version_of(x) for name, x in theta.items()}
    found = _feedback_gradient(feedback_loss, theta, False, processes)
    return KnownFeedback(feedback_loss, dict(theta), versions, *found)


def held_feedback(
    feedback_loss: Callable[[Params], Scalar], theta: Params, loss: Scalar, gradient: Params
) -> KnownFeedback:
    """L_down and g_down of an earlier theta, to be taken for those at this one.

    Args:
        feedback_loss: theta -> L_down, as the problem has it.
        theta: the learner's parameters now; estimators have to be given these very tensors.
        loss: L_down at the earlier theta.
        gradient: g_down there.
    """
    trees.require_same_structure("the held g_down", gradient, theta)
    versions = {name: version_of(x) for name, x in theta.items()}
    return KnownFeedback(feedback_loss, dict(theta), versions, loss, gradient)


def gradient_by_parts(
    loss: Callable[[Params], Scalar], theta: Params
) -> tuple[Scalar, Params | None]:
    """A loss and its gradient, with no more than a part's graph at a time; both detached.

    Args:
        loss: theta -> loss, `InParts` or any other.
        theta: autograd leaves.

    Returns:
        The loss; and its gradient, None where no part has a graph to theta.
    """
    total: Scalar | None = None
    gradient: Params | None = None
    for part in _parts_of(loss):
        with torch.enable_grad():
            found = scalar("feedback_loss", part(theta))
            one = trees.gradient_if_reached(found, theta)
            if one is not None:
                gradient = one if gradient is None else trees.axpy(1.0, one, gradient)
            del one
        total = found.detach() if total is None else total + found.detach()
        del found
    assert total is not None
    return total, gradient


def _known_at(problem: ValueProblem, theta: Params) -> KnownFeedback | None:
    """What is known of this very loss at this very theta, unchanged since then; or None."""
    known = problem.known
    if known is None or known.feedback_loss is not problem.feedback_loss:
        return None
    same = theta.keys() == known.theta.keys() and all(
        theta[name] is x and version_of(x) == known.versions[name]
        for name, x in known.theta.items()
    )
    return known if same else None


def _feedback_gradient(
    feedback_loss: Callable[[Params], Scalar],
    theta: Params,
    silent: bool,
    processes: Processes,
) -> tuple[Scalar, Params]:
    theta = trees.leaves(theta)
    with torch.enable_grad(), using(feedback_loss, "feedback_loss", theta=theta):
        loss, g_down = gradient_by_parts(feedback_loss, theta)
        if g_down is None:
            # another process may hold all that says something
            _require_graph(silent or not processes.alone, theta)
            g_down = trees.zeros_like(theta)
    return processes.total(loss), processes.summed(g_down)


def _parts_of(loss: Callable[[Params], Scalar]) -> tuple[Callable[[Params], Scalar], ...]:
    return loss.parts if isinstance(loss, InParts) else (loss,)


def _feedback_value(feedback_loss: Callable[[Params], Scalar], theta: Params, free: bool) -> Scalar:
    total: Scalar | None = None
    reached = False
    for part in _parts_of(feedback_loss):
        loss = scalar("feedback_loss", part(theta))
        reached = reached or _reaches(loss, theta)
        total = loss.detach() if total is None else total + loss.detach()
        del loss
    assert total is not None
    if not reached:
        _require_graph(free, theta)
    return total


def _reaches(loss: Tensor, theta: Params) -> bool:
    """Whether a way leads from a loss to one of theta's leaves; it is followed to the first."""
    own = {id(x) for x in theta.values()}
    ahead, seen = [loss.grad_fn], set[Any]()
    while ahead:
        node = ahead.pop()
        if node is None or node in seen:
            continue
        if id(getattr(node, "variable", None)) in own:
            return True
        seen.add(node)
        ahead += [after for after, _ in node.next_functions]
    return any(loss is x for x in theta.values())


def _require_graph(free: bool, theta: Params) -> None:
    if not free:
        raise UserError(
            "feedback_loss returned a tensor without a graph to theta "
            f"{trees.described(theta)}: look for .detach() or torch.no_grad() in it, or for "
            f"parameters that are not theta's; {ORDER}"
        )
