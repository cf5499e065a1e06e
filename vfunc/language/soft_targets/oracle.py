"""Targets in closed form, from the value of each candidate: what a designer is measured against.

With soft targets the first-order value is linear in q (theory/06): V(q) = sum_t w_t <q_t, u_t>,
where u_tk is the value of a unit of target mass on candidate k. No designer reaches more of it on
the same labelled batch than `oracle_targets` do; what they do to the learner is another question.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.language.learner import LanguageLearner
from vfunc.language.soft_targets.candidates import ObservedBatch
from vfunc.language.soft_targets.soft_loss import one_hot, weights_of
from vfunc.language.soft_targets.targets import TargetForm, mix
from vfunc.language.value_problem import language_problem
from vfunc.problem import construct_task
from vfunc.pullback import mixed_product
from vfunc.simulate import SGD, UpdateRule
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed


def candidate_values(
    estimated: LanguageLearner, observed: ObservedBatch, g_down: Params
) -> Float[Tensor, "B T K"]:
    """u: minus the derivative of each candidate's log p along g_down; 0 where nothing is predicted.

    Args:
        estimated: the learner as estimates see it.
        observed: a batch with its candidates.
        g_down: gradient of L_down at the learner's parameters in S.
    """

    def zero(theta: Params) -> Scalar:  # g_down is given: nobody asks
        return torch.zeros(())

    rule = UpdateRule(SGD(1.0))
    problem = language_problem(estimated, nn.Module(), (observed,), zero, rule, {})
    task = {
        "inputs": observed.batch.inputs,
        "candidates": observed.observation.candidates,
        "weight": weights_of(observed.batch),
    }
    edge = problem.batches[0].edge
    if edge is not None:
        task["edge"] = edge
    problem = replace(problem, construct=lambda phi, _: {**task, "q": phi["q"]})
    _, truth = one_hot(observed.batch)
    start = torch.zeros_like(observed.observation.log_probs)
    start[..., :1] = truth.to(start)
    construction = construct_task(problem, {"q": start}, problem.batches[0])
    product = mixed_product(problem, estimated.functional.theta, construction, g_down)
    weight = task["weight"].unsqueeze(-1)
    return torch.where(weight > 0, product.task["q"] / weight.clamp(min=1e-30), 0.0)


@typed
def oracle_targets(
    form: TargetForm, observed: ObservedBatch, u: Float[Tensor, "B T K"]
) -> tuple[Float[Tensor, "B T K"], Float[Tensor, "B T"]]:
    """(q, alpha) of the largest value among the targets of a form.

    The gate is at its bound or closed: the value is linear in it. Towards what it opens,

    - `gate`: the learner's own top-K probabilities, as they are;
    - `free`: the one candidate of the highest value;
    - `bounded`: shifts at their bounds, up for the candidates above some value, down for the
      others: a quotient of linear functions is largest at a corner, and there in that order.

    Args:
        form: the form of the targets.
        observed: the batch with the learner's candidates and probabilities.
        u: the candidates' values.
    """
    own = observed.observation.log_probs.softmax(-1)
    if form.form == "gate":
        r = own
    elif form.form == "free":
        r = nn.functional.one_hot(u.argmax(-1), u.shape[-1]).to(own.dtype)
    else:
        r = _shifted(own, u, form.shift_bound)
    gain = (r * u).sum(-1) - u[..., 0]
    alpha = form.alpha_max * (gain > 0).to(own.dtype)
    return mix(alpha, r), alpha


@typed
def tilted_targets(
    observed: ObservedBatch, u: Float[Tensor, "B T K"], tilt: float
) -> tuple[Float[Tensor, "B T K"], Float[Tensor, "B T"]]:
    """(q, alpha) of the largest value less a price on KL(q || p): q ~ p exp(tilt u / typical).

    The trust region of theory/06, around the learner's own top-K probabilities. alpha is the mass
    that is off the text's own token.

    Args:
        observed: the batch with the learner's candidates and probabilities.
        u: the candidates' values.
        tilt: nats by which a candidate of typical value is raised; typical is the mean |u| of
            the predicted positions' candidates.
    """
    typical = u.abs()[observed.batch.predict].mean().clamp(min=1e-30)
    q = (observed.observation.log_probs + tilt * (u / typical).to(u.dtype)).softmax(-1)
    return q, 1 - q[..., 0]


def _shifted(own: Tensor, u: Tensor, bound: float) -> Tensor:
    """The largest <r, u> of r ~ own exp(s), |s| <= bound: every threshold is tried."""
    order = u.argsort(-1, descending=True)
    p, value = own.gather(-1, order), u.gather(-1, order)
    up, down = p * torch.e**bound, p * torch.e**-bound
    # the first j candidates are raised, j = 0 ... K
    mass, worth = (
        nn.functional.pad((a - b).cumsum(-1), (1, 0)) + b.sum(-1, keepdim=True)
        for a, b in ((up, down), (up * value, down * value))
    )
    best = (worth / mass).argmax(-1, keepdim=True)
    raised = torch.arange(u.shape[-1], device=u.device) < best
    r = torch.where(raised, up, down)
    r = r / r.sum(-1, keepdim=True)
    return torch.zeros_like(r).scatter(-1, order, r)
