"""Which examples, and which tokens of them, a value comes from."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from vfunc import trees
from vfunc.errors import UserError
from vfunc.forward_pass import coarsest_round_off, round_off
from vfunc.problem import Task, ValueProblem, construct_task, entry, feedback_gradient
from vfunc.problem.arguments import blaming, scalar
from vfunc.problem.pieces_of_code import code_of, first_time, remember
from vfunc.pullback import ENGINES, attention_for
from vfunc.pullback.custom_functions import TANGENT, same
from vfunc.pullback.graph import coarsest_of, custom_functions
from vfunc.pullback.missing import MissingDerivativeError, missing_told
from vfunc.pullback.overridden.frozen_weights import frozen_weights_once
from vfunc.pullback.stop_gradients import IN_THETA
from vfunc.trees import Params, tangent_along
from vfunc.typecheck import typed


@entry
@typed
def value_of_parts(problem: ValueProblem, theta: Params, phi: Params) -> Float[Tensor, "..."]:
    """Each term's contribution to eta V: by how much its share of the step lowers L_down.

    L_pre is a sum of terms l_i, and so is eta V = eta <g_down, grad L_pre> of
    eta <g_down, grad l_i>: the tangents of the terms along eta g_down, all from one forward-mode
    pass. For plain gradient descent these are TracIn's scores of the terms (Pruthi et al., 2020,
    arXiv 2002.08484).

    Args:
        problem: has to say what the terms are (`parts`); the first of its batches is used.
        theta: the learner's parameters.
        phi: the designer's parameters.

    Returns:
        Contributions in units of L_down, detached, in the shape of `parts`: for language (B, T), a
        number a token, whose sum over T is the example's. Their sum is `first_order`'s value.

    Raises:
        UserError: the problem does not say what the terms of its loss are, or says terms that are
            not its loss's, or has kernels without a forward mode; or the optimizer climbs.
    """
    problem.rule.require_descent("value_of_parts")
    _require_parts(problem)
    task = construct_task(problem, phi, problem.batches[0]).task
    _, g_down = feedback_gradient(problem, theta)
    return tangents_of_parts(problem, theta, task, problem.rule.sized(g_down))


def tangents_of_parts(
    problem: ValueProblem, theta: Params, task: Task, w: Params
) -> Float[Tensor, "..."]:
    """<w, grad l_i> of each term l_i of the loss of any task, from one forward-mode pass.

    Args:
        problem: has to say what the terms are (`parts`).
        theta: the learner's parameters.
        task: whose loss.
        w: the direction in learner space.

    Returns:
        The tangents, detached, in the shape of `parts`; with several processes of this one's part.

    Raises:
        UserError: see `value_of_parts`.
    """
    parts, held = _require_parts(problem), problem.held(theta)

    def terms(theta: Params) -> Tensor:
        found = parts(theta, task, *held)
        if not isinstance(found, Tensor) or not found.ndim:
            instead = "a scalar" if isinstance(found, Tensor) else type(found).__name__
            raise UserError(
                "parts must return the terms of the loss as one tensor, examples along its first "
                f"dimension, not {instead}"
            )
        return found

    with attention_for(ENGINES["forward"]), blaming("parts", theta=theta, task=task):
        try:
            with missing_told("forward"):
                with frozen_weights_once():
                    _, tangents = tangent_along(terms, theta, w)
                code = (code_of(parts), code_of(problem.pretrain_loss))
                own = coarsest_round_off(theta, problem.compute_dtype)
                loss = partial(problem.pretrain, theta, task)
                _require_sum(terms, theta, w, tangents, code, loss, own)
        except MissingDerivativeError as missing:
            raise UserError(
                f"value_of_parts needs forward mode, and {missing.operation or 'an operation'} of "
                f"the learner has none ({missing.said})"
            ) from missing
    return tangents.detach()


def _require_parts(problem: ValueProblem) -> Callable[..., Tensor]:
    """The terms of the loss, checked to be there and to have a forward mode."""
    if problem.parts is None:
        raise UserError(
            "value_of_parts needs the terms of the loss: give the ValueProblem "
            "`parts`, (theta, task) -> the terms whose sum is pretrain_loss"
        )
    if problem.no_second_order is not None:
        raise UserError(f"value_of_parts needs forward mode: {problem.no_second_order}")
    return problem.parts


def _require_sum(
    terms: Callable[[Params], Tensor],
    theta: Params,
    w: Params,
    tangents: Tensor,
    code: Hashable,
    loss: Callable[[], Tensor],
    own: float,
) -> None:
    """Check that the terms are the loss's, and their tangents those of a plain gradient.

    Once for each piece of code, by a forward and a gradient, and a forward of the loss. `own` is
    the round-off of theta; what the terms cast themselves counts, too.

    Raises:
        UserError: the terms do not add up to the loss.
        MissingDerivativeError: the tangents differ: forward mode goes through operators of
            `torch.library` as through constants, and through `torch.no_grad()` as through none.
    """
    key = (code, "tangents of parts")
    if not first_time(key):
        return
    leaves = trees.leaves(theta)
    with torch.enable_grad():
        found = terms(leaves)
        total = found.sum()
        custom, coarsest = " or ".join(custom_functions([total])), max(own, coarsest_of([total]))
        wanted = float(trees.dot(w, trees.gradient(total, leaves)))
        whole = scalar("pretrain_loss", loss()).detach()
    size = max(float(tangents.abs().sum()), abs(wanted))
    if not same(float(tangents.sum()), wanted, size, coarsest):
        raise MissingDerivativeError("forward", custom or IN_THETA, TANGENT)
    summed, size = float(total.detach()), max(float(found.detach().abs().sum()), abs(float(whole)))
    if not same(summed, float(whole), size, max(coarsest, round_off(whole.dtype))):
        raise UserError(
            f"parts must return the terms of the loss: they add up to {summed:.6g}, and "
            f"pretrain_loss is {float(whole):.6g}"
        )
    remember(key)
