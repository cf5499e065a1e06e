"""First-order value: V = <g_down, g_pre>, its cosine, the optimizer's own step, and deflation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from vfunc import trees
from vfunc.config.allowed import check_fields
from vfunc.config.declared import Need, option
from vfunc.errors import NonFiniteError, UserError
from vfunc.estimators.deflation import (
    coarsest,
    cosines_to_means,
    deflate,
    learner_span,
    step_span,
)
from vfunc.estimators.estimator import Estimator, register_estimator
from vfunc.estimators.next_batches import NextBatches, mean_of_batches, next_batches
from vfunc.problem import (
    Construction,
    ValueEstimate,
    ValueProblem,
    construct_task,
    entry,
    feedback_gradient,
    pretrain_gradient,
    step_gradient,
)
from vfunc.problem.arguments import require_engine
from vfunc.pullback import GRADIENT, Engine, EngineName, Passes, pull_back
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed

Value = Literal["dot", "cosine", "preconditioned", "deflated", "deflated_preconditioned"]
DEFLATED = ("deflated", "deflated_preconditioned")
REPEATED = ("dot", "deflated")
"""Those whose direction w is the same whatever the designer makes, without `mean_batches`."""

_TAKES_MEANS = Need(
    lambda options: options["value"] in DEFLATED, f"it is for --value {' or '.join(DEFLATED)}"
)
_TAKES_SOME = Need(
    lambda options: options["means"] > 0 or options["mean_batches"] > 0,
    "--means 0 takes nothing out, without --mean-batches",
)


def repeats(value: str, mean_batches: int) -> bool:
    """Whether such a `FirstOrder` has one direction w, whatever the designer makes."""
    return value in REPEATED and not mean_batches


@register_estimator("first_order")
@dataclass(frozen=True)
class FirstOrder:
    """How much one learner step on c_phi(B_0) lowers L_down, to first order in eta.

    `dot`: the value and objective are eta V, V = <g_down, g_pre> (paper, equation 9), the
    direction eta g_down. `cosine`: the value is eta V, the objective cos(g_down, g_pre), which does
    not grow with |g_pre|. `preconditioned`: both are -<g_down, d>, d the optimizer's own next step
    (equation 35), with its moments, weight decay, accumulation and clipping. Where eta is zero, as
    in the first step of a warm-up, so is the value; the objectives of dot and preconditioned are
    then those of eta = 1.

    `deflated`: value and objective are <w, g_pre>, w = eta (g_down - beta P g_down) held constant,
    P the orthogonal projection onto the span of running means of the stream's own gradients
    (`ValueProblem.means`) and, with `mean_batches` above 0, of the mean gradient at theta of the
    tasks that c_phi makes of so many batches, B_0 among them, held constant too. On a learner that
    is still far from what the stream teaches, g_down is nearly the stream's mean gradient, in which
    what is wrong is worth as much as what is right; training lowers that part of L_down whatever
    the tasks are. At beta = 1, <w, mean> = 0. With the batch's own gradient as the only mean
    (means = 0, mean_batches = 1), w is cosine's direction up to a factor. Where parameter groups
    differ in eta, P is onto the span of eta times the means.

    `deflated_preconditioned`: both are -<g, d>, d the optimizer's own next step as in
    `preconditioned`, g = g_down - beta P g_down, P the orthogonal projection onto the span of
    d(mean) - d(0): what each mean, as the step's gradient, adds to the learner's own step. What
    training brings anyway is a movement of the parameters, and the optimizer bends the mean
    gradient on its way to one; so it is taken out of g_down, in the plain inner product, before
    the step's transpose gives w = -(dd/dg)^T g. At beta = 1 the mean's own contribution to the
    step is worth nothing, and where the step is affine in its gradient <w, mean> = 0. With plain
    SGD it is `deflated`. The means are held constant, so that -<g, d> is an honest function of phi;
    `held_at` says which, where the batches' mean is among them.

    Without means (before the learner's first step, or if all are zero) the two are dot and
    preconditioned, bit for bit. `means_used` in the diagnostics is the dimension of the span,
    `in_span` the share of g_down in it, `mean_cosine` the cosine of g_down and the first running
    mean, which the other values tell too where the problem holds means, and `mean_batches_cosine`
    that of g_down and the batches' mean.

    Attributes:
        value: what to raise: the product of the two gradients, their cosine, or the product after
            the optimizer's own preconditioning; deflated and deflated_preconditioned first take out
            of g_down what the stream teaches anyway.
        means: how many running means of the stream's gradients span what is taken out; fewer where
            the problem holds fewer. Each is as large as a gradient, and at the usual decay rates
            the eighth is of the last 1e8 steps, more than any run has.
        mean_batches: how many of the next unlabeled batches, the present one first, make one mean
            more, of their gradients as the learner and the tasks are now; a gradient each.
        beta: how much of g_down's part in their span is taken out.
        engine: how the value is differentiated in the designer.
    """

    takes_g_down: ClassVar[bool] = True
    g_down_alone: ClassVar[bool] = True

    value: Value = "dot"
    engine: EngineName | Engine = "auto"
    means: int = option(default=1, least=0, most=8, needs=(_TAKES_MEANS,))
    mean_batches: int = option(default=0, least=0, most=4096, needs=(_TAKES_MEANS,))
    beta: float = option(default=1.0, least=0, most=1, needs=(_TAKES_MEANS, _TAKES_SOME))

    def __post_init__(self) -> None:
        check_fields(self)
        require_engine("engine", self.engine)
        if self.value not in DEFLATED:
            for name, usual in (("means", 1), ("mean_batches", 0), ("beta", 1.0)):
                if getattr(self, name) != usual:
                    raise UserError(
                        f"{name} does nothing with value {self.value}: it is for deflated ones"
                    )
        if not self.means and not self.mean_batches and self.beta != 1.0:
            raise UserError("beta does nothing with means 0, which takes nothing out")

    @property
    def repeats(self) -> bool:
        """Whether its estimates say what they are at another phi (`ValueEstimate.again`)."""
        return repeats(self.value, self.mean_batches)

    @property
    def running_means(self) -> int:
        """How many running means of the stream's gradients it takes, if the problem holds them."""
        return self.means if self.value in DEFLATED else 0

    @entry
    @typed
    def __call__(self, problem: ValueProblem, theta: Params, phi: Params) -> ValueEstimate:
        """See `Estimator.__call__`; the first of the problem's batches is used.

        Further ones are for the mean of `mean_batches`.
        """
        count = self.mean_batches
        batches = next_batches(problem, theta, phi, count) if count else None
        return self._estimate(problem, theta, phi, batches)

    def held_at(self, problem: ValueProblem, theta: Params, phi: Params) -> Estimator:
        """See `vfunc.estimators.estimator.held_at`: the batches' mean stays that at phi."""
        if not self.mean_batches:
            return self
        batches = mean_of_batches(problem, theta, phi, self.mean_batches)
        return lambda problem, theta, phi: self._estimate(problem, theta, phi, batches)

    def _estimate(
        self, problem: ValueProblem, theta: Params, phi: Params, batches: NextBatches | None
    ) -> ValueEstimate:
        construction = construct_task(problem, phi, problem.batches[0])
        _, g_down = feedback_gradient(problem, theta)
        if self.value == "cosine":
            return self._cosine(problem, theta, construction, g_down)
        if self.value in ("preconditioned", "deflated_preconditioned"):
            return self._preconditioned(problem, theta, construction, g_down, batches)
        return self._dot(problem, theta, construction, g_down, batches)

    def _dot(
        self,
        problem: ValueProblem,
        theta: Params,
        construction: Construction,
        g_down: Params,
        batches: NextBatches | None,
    ) -> ValueEstimate:
        fresh: tuple[Params, ...] = ()
        if batches is not None:
            fresh = batches.mean(lambda: pretrain_gradient(problem, theta, construction.task))
        rest, told = self._deflated(
            problem, g_down, fresh, lambda means: learner_span(problem, means)
        )
        del fresh
        rule = problem.rule
        w = rule.at_unit.sized(rest)
        pulled = pull_back(problem, theta, construction, w, self.engine)
        notes = {"g_down_norm": float(trees.norm(g_down)), **told}
        value = pulled.inner if rule.eta else torch.zeros_like(pulled.inner)
        spent = _gradients(1 + (batches.count if batches else 0))
        return pulled.estimate(
            value, rule.unit, notes, spent=spent, objective=pulled.inner, repeats=self.repeats
        )

    def _cosine(
        self, problem: ValueProblem, theta: Params, construction: Construction, g_down: Params
    ) -> ValueEstimate:
        g_pre = pretrain_gradient(problem, theta, construction.task)
        pre = trees.norm(g_pre)
        cosine = trees.cosine(g_down, g_pre)
        if not torch.isfinite(cosine):
            raise NonFiniteError(
                f"the cosine of g_down and g_pre is undefined: |g_down| is "
                f"{float(trees.norm(g_down)):.3g} and |g_pre| {float(pre):.3g}; --value "
                "dot is zero there"
            )
        # d cos / d g_pre
        across = trees.axpy(
            -cosine, trees.scale(g_pre, 1 / pre), trees.scale(g_down, 1 / trees.norm(g_down))
        )
        w = trees.scale(across, 1 / pre)
        pulled = pull_back(problem, theta, construction, w, self.engine)
        value = trees.dot(problem.rule.sized(g_down), g_pre)
        notes = {**alignment(g_down, g_pre), **_cosines(g_down, problem)}
        return pulled.estimate(value, 1.0, notes, objective=cosine, spent=GRADIENT + GRADIENT)

    def _preconditioned(
        self,
        problem: ValueProblem,
        theta: Params,
        construction: Construction,
        g_down: Params,
        batches: NextBatches | None,
    ) -> ValueEstimate:
        g_pre = step_gradient(problem, theta, construction.task)
        rule, here = problem.rule.at_unit, trees.detach(theta)
        after, _ = rule.step(here, problem.state, g_pre)
        rest, told = self._deflated(
            problem,
            g_down,
            batches.mean(lambda: trees.filled(g_pre, theta)) if batches else (),
            lambda means: step_span(problem, theta, means),
        )
        objective = -trees.dot(rest, trees.axpy(-1.0, here, after))
        value = objective if problem.rule.eta else torch.zeros_like(objective)
        _, _, g_bar = rule.vjp(here, problem.state, g_pre, rest, {})
        w = trees.scale(g_bar, -1.0)
        pulled = pull_back(problem, theta, construction, w, self.engine)
        notes = {**alignment(g_down, trees.filled(g_pre, theta)), **told}
        return pulled.estimate(
            value,
            problem.rule.unit,
            notes,
            objective=objective,
            spent=_gradients(1 + max(1, batches.count if batches else 0)),
            further=problem.rule.notes(),
        )

    def _deflated(
        self,
        problem: ValueProblem,
        g_down: Params,
        fresh: tuple[Params, ...],
        span: Callable[[tuple[Params, ...]], tuple[Params, ...]],
    ) -> tuple[Params, dict[str, float | int]]:
        """g_down less its part in the span, where it is to be taken out; and the diagnostics.

        Args:
            problem: holds the running means.
            g_down: the feedback's gradient.
            fresh: the mean of the next batches, if it is taken.
            span: what some means make of the learner's step.
        """
        told = _cosines(g_down, problem)
        if self.value not in DEFLATED:
            return g_down, dict(told)
        for cosine in cosines_to_means(g_down, fresh).values():
            told["mean_batches_cosine"] = cosine
        means = (*problem.means[: self.means], *fresh)
        found = deflate(g_down, span(means), self.beta, coarsest(means))
        return found.rest, {**told, "means_used": found.used, "in_span": found.share}


def _gradients(count: int) -> Passes:
    return Passes(forwards=count, backwards=count)


def _cosines(g_down: Params, problem: ValueProblem) -> dict[str, float]:
    return cosines_to_means(g_down, problem.means) if problem.means else {}


def alignment(g_down: Params, g_pre: Params) -> dict[str, float]:
    """Norms of the two gradients and their cosine, for the diagnostics."""
    return {
        "g_down_norm": float(trees.norm(g_down)),
        "g_pre_norm": float(trees.norm(g_pre)),
        "cosine": float(trees.cosine(g_down, g_pre)),
    }


def first_order_value(
    problem: ValueProblem, theta: Params, construction: Construction, g_down: Params
) -> tuple[Scalar, Passes]:
    """eta V alone, from one plain gradient."""
    g_pre = pretrain_gradient(problem, theta, construction.task)
    return trees.dot(problem.rule.sized(g_down), g_pre), GRADIENT
