"""Several feedback tasks: one weighted loss of them all, or each met by its own domain's batches.

`weighted_feedback` sums the tasks' losses into one L_down (paper, equation 18). `DomainMatched`
asks an estimator domain by domain, each domain's feedback meeting that domain's own unlabeled
batches, and averages the answers (equation 46).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from vfunc import trees
from vfunc.errors import UserError
from vfunc.estimators import Estimator, held_at
from vfunc.problem import InParts, ValueEstimate, ValueProblem, entry
from vfunc.problem.evaluation import gradient_by_parts
from vfunc.processes import ALONE, Processes
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed

FeedbackLoss = Callable[[Params], Scalar]
"""theta -> L_j, one feedback task's loss."""

SHARED = ("engine", "engine_why", "hessian_engine", "split")
"""Diagnostics that domains have in common."""

TOTALLED = ("forwards", "backwards", "tangents")
"""Diagnostics that add up over domains: learner passes."""


@typed
def weighted_feedback(
    losses: Mapping[str, FeedbackLoss],
    weights: Mapping[str, float | int] | None = None,
    *,
    normalise_at: Params | None = None,
    processes: Processes = ALONE,
) -> FeedbackLoss:
    """L_down = sum_j w_j L_j, whose gradient is sum_j w_j g_j (paper, equation 18).

    With `normalise_at` = theta_t each term is divided by |grad L_j(theta_t)|, so that no task wins
    by the mere size of its gradient. The divisors are computed here, once, and are constants of
    the loss: it stays one function of theta, with its own gradient and Hessian, for lookahead and
    inner problems too. At theta_t its gradient is sum_j w_j g_j / |g_j|; L_down is then a length
    in learner space and no longer in the units of the L_j. A task whose gradient is exactly zero
    there has no direction and is left out. The divisors cost one learner gradient a task, which
    the passes of an estimate do not count.

    Losses that are `InParts`, of the same number of parts, make one that is.

    Args:
        losses: the tasks' losses by name, theta_S -> scalar.
        weights: w_j by the same names, finite; None weighs every task by 1 / their number.
        normalise_at: theta_t, or None to leave the losses as they are.
        processes: as the problem has them, whose losses are this process's part of sums.

    Returns:
        theta_S -> L_down.

    Raises:
        UserError: no losses, or weights of other names, not finite, or all zero.
    """
    if not losses:
        raise UserError("weighted_feedback needs at least one loss")
    if weights is None:
        weights = dict.fromkeys(losses, 1 / len(losses))
    if set(weights) != set(losses):
        raise UserError(
            f"the weights are for {', '.join(weights)}; the feedback tasks are {', '.join(losses)}"
        )
    if not all(map(math.isfinite, weights.values())) or not any(weights.values()):
        raise UserError(f"feedback weights {dict(weights)}: give finite ones, not all zero")
    factors = {name: float(w) for name, w in weights.items() if w}
    if normalise_at is not None:
        norms = {n: _gradient_norm(losses[n], normalise_at, processes) for n in factors}
        factors = {name: w / norms[name] for name, w in factors.items() if norms[name] > 0}

    chosen = {name: one for name, one in losses.items() if name in factors}
    in_parts = [one for one in chosen.values() if isinstance(one, InParts)]
    if in_parts and len(in_parts) == len(chosen) and len({len(x.parts) for x in in_parts}) == 1:
        together = zip(*(one.parts for one in in_parts), strict=True)
        return InParts(
            tuple(_sum(dict(zip(chosen, one, strict=True)), factors) for one in together)
        )
    return _sum(chosen, factors)


def _sum(losses: Mapping[str, FeedbackLoss], factors: Mapping[str, float]) -> FeedbackLoss:
    def loss(theta: Params) -> Scalar:
        # in the losses' order, so that the order of the weights does not matter
        terms = [factors[name] * one(theta) for name, one in losses.items()]
        return sum(terms[1:], terms[0]) if terms else _constant_zero(theta)

    return loss


@dataclass(frozen=True)
class DomainMatched:
    """The mean over domains of an estimator's answer, each domain asked apart (equation 46).

    Domain d's problem holds its own feedback and its own unlabeled batches, so that what helps
    one domain's feedback is only ever looked for in that domain's text. Value, objective and
    gradient are means over the domains, and so keep the estimator's units and scale. Where the
    learner's update is simulated, it is the step on that domain's batches alone.

    A domain whose feedback says nothing (`ValueProblem.silent`) counts with a value, an objective
    and a gradient of zero.

    Attributes:
        estimator: is asked once a domain.
        normalise: divide each domain's L_down by its own |g_down| at theta, held constant (see
            `weighted_feedback`). Immaterial to the objective of `FirstOrder("cosine")`, which
            does not change with the size of g_down.
    """

    estimator: Estimator
    normalise: bool = False

    @property
    def engine(self) -> Any:
        """The estimator's engine option, `auto` if it has none."""
        return getattr(self.estimator, "engine", "auto")

    @entry
    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the problem's `domains` are asked.

        Returns:
            The means. Diagnostics are the domains' own, each prefixed by its domain's name and a
            slash, and the total of learner passes.

        Raises:
            UserError: the problem has no domains, or their estimates differ in scale.
        """
        return self._asked(problem, theta, phi, dict.fromkeys(problem.domains, self.estimator))

    def held_at(self, problem: ValueProblem, theta: Params, phi: Params) -> Estimator:
        """See `vfunc.estimators.estimator.held_at`, domain by domain."""
        estimators = {
            name: held_at(self.estimator, self._normalised(one, theta), theta, phi)
            for name, one in problem.domains.items()
            if not one.silent
        }
        return lambda problem, theta, phi: self._asked(problem, theta, phi, estimators)

    def _asked(
        self,
        problem: ValueProblem,
        theta: Params,
        phi: Params,
        estimators: Mapping[str, Estimator],
    ) -> ValueEstimate:
        if not problem.domains:
            raise UserError("DomainMatched needs a problem with `domains`; this one has none")
        estimates = {
            name: estimators[name](self._normalised(one, theta), theta, phi)
            for name, one in problem.domains.items()
            if not one.silent
        }
        if not estimates:
            return _no_estimate(problem, theta, phi)
        return _mean(estimates, len(problem.domains))

    def _normalised(self, problem: ValueProblem, theta: Params) -> ValueProblem:
        if not self.normalise:
            return problem
        losses = {"feedback": problem.feedback_loss}
        loss = weighted_feedback(losses, normalise_at=theta, processes=problem.processes)
        return replace(problem, feedback_loss=loss)


def _mean(estimates: Mapping[str, ValueEstimate], count: int) -> ValueEstimate:
    """Sums over the estimates divided by `count`, which silent domains are part of."""
    scales = {name: estimate.scale for name, estimate in estimates.items()}
    scale = next(iter(scales.values()))
    if any(not math.isclose(other, scale, rel_tol=1e-12) for other in scales.values()):
        raise UserError(f"the domains' estimates differ in scale, and have no mean: {scales}")
    found = list(estimates.values())
    grad = trees.zeros_like(found[0].grad)
    for estimate in found:
        grad = trees.axpy(1.0, estimate.grad, grad)
    diagnostics: dict[str, float | int | bool | str] = {
        f"{name}/{key}": value
        for name, estimate in estimates.items()
        for key, value in estimate.diagnostics.items()
    }
    for key in TOTALLED:
        if all(key in estimate.diagnostics for estimate in found):
            diagnostics[key] = sum(int(estimate.diagnostics[key]) for estimate in found)
    for key in SHARED:  # the learner and the form of the loss are the same in all of them
        said = [str(e.diagnostics[key]) for e in found if e.diagnostics.get(key)]
        if said:
            diagnostics[key] = "; ".join(dict.fromkeys(said))
    phrases = (phrase for estimate in found for phrase in estimate.approximations)
    again = [estimate.again for estimate in found if estimate.again is not None]

    def repeated(phi: Params) -> ValueEstimate:
        return _mean({name: at(phi) for name, at in zip(estimates, again, strict=True)}, count)

    return ValueEstimate(
        torch.stack([estimate.value for estimate in found]).sum() / count,
        torch.stack([estimate.objective for estimate in found]).sum() / count,
        trees.scale(grad, 1 / count),
        scale,
        diagnostics,
        tuple(dict.fromkeys(phrases)),
        repeated if len(again) == len(found) else None,
    )


def _no_estimate(problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
    zero = _constant_zero(theta)
    return ValueEstimate(zero, zero, trees.zeros_like(phi), problem.rule.unit, {})


def _gradient_norm(loss: FeedbackLoss, theta: Params, processes: Processes) -> float:
    _, found = gradient_by_parts(loss, trees.leaves(theta))
    gradient = trees.zeros_like(theta) if found is None else found
    return float(trees.norm(processes.summed(gradient)))


def _constant_zero(theta: Params) -> Scalar:
    x = next(iter(theta.values()))
    return torch.zeros((), dtype=x.dtype, device=x.device)
