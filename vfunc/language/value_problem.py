"""The language modality as a `ValueProblem`: soft next-token targets, cross-entropy feedback."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor, nn
from torch.func import functional_call

from vfunc.language.learner import LanguageLearner
from vfunc.language.soft_targets.candidates import ObservedBatch
from vfunc.language.soft_targets.soft_loss import candidate_log_probs, weights_of
from vfunc.language.soft_targets.targets import mix
from vfunc.problem import CompositeForm, KnownFeedback, LinearForm, Task, ValueProblem
from vfunc.problem.gains import Gains
from vfunc.processes import ALONE, Processes
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params, Scalar


def language_problem(
    learner: LanguageLearner,
    designer: nn.Module,
    batches: tuple[ObservedBatch, ...],
    feedback: Callable[[Params], Scalar],
    rule: UpdateRule,
    state: OptimizerState,
    *,
    seed: int = 0,
    silent: bool = False,
    notes: Mapping[str, float] | None = None,
    known: KnownFeedback | None = None,
    gains: Gains | None = None,
    processes: Processes = ALONE,
) -> ValueProblem:
    """Ask how the designer's soft targets should change, to lower the loss on `feedback`.

    Args:
        learner: the model, its subset S, precision and split.
        designer: (TokenBatch, Observation) -> (r, alpha); phi are its named parameters.
        batches: unlabeled batches, observed at theta_t.
        feedback: theta_S -> L_down on labelled data.
        rule: the learner's next optimizer step.
        state: the learner's optimizer state.
        seed: seed of what an estimator samples.
        silent: whether L_down is constant.
        notes: numbers about the feedback, for the log.
        known: L_down and g_down, where they have been computed before.
        gains: watches the gates, for the typical value of a token; None does not.
        processes: the processes whose batches these are a part of, each `TokenBatch.among` them.

    Returns:
        The problem. Its objective is linear in the targets, task["q"].
    """

    def construct(phi: Params, observed: ObservedBatch) -> Task:
        r, alpha = functional_call(designer, phi, (observed.batch, observed.observation))
        if gains is not None:
            gains.watch(alpha)
        known = {"edge": observed.edge, "below": observed.batch.below}
        if observed.edge is not None:
            del known["below"]
        return {
            **{name: x for name, x in known.items() if x is not None},
            "inputs": observed.batch.inputs,
            "rows": observed.batch.predicted_rows,
            "candidates": observed.observation.candidates,
            "weight": weights_of(observed.batch),
            "q": mix(alpha, r),
        }

    def outputs(theta: Params, task: Task) -> Tensor:
        known = {name: task.get(name) for name in ("edge", "below", "rows")}
        return learner.logits(theta, task["inputs"], dropout=True, **known)

    def weighted(logits: Tensor, task: Task) -> Tensor:
        log_p = candidate_log_probs(logits, task["candidates"], task["weight"])
        return -log_p * task["weight"].to(log_p.dtype).unsqueeze(-1)

    def coefficients(theta: Params, task: Task) -> Tensor:
        return weighted(outputs(theta, task), task)

    def tangent(theta: Params, w: Params, task: Task) -> Tensor:
        inputs, known = task["inputs"], {name: task.get(name) for name in ("edge", "below")}
        along = learner.log_probs_along(
            theta, w, inputs, task["candidates"], task["weight"], **known
        )
        return -along * task["weight"].to(along.dtype).unsqueeze(-1)

    def loss_of_outputs(logits: Tensor, task: Task) -> Tensor:
        return (task["q"] * weighted(logits, task)).sum()

    def parts(theta: Params, task: Task) -> Tensor:
        return (task["q"] * coefficients(theta, task)).sum(-1)

    def pretrain_loss(theta: Params, task: Task) -> Tensor:
        return (task["q"] * coefficients(theta, task)).sum()

    return ValueProblem(
        construct,
        pretrain_loss,
        feedback,
        tuple(map(learner.at_edge, batches)),
        rule,
        state,
        linear=LinearForm("q", coefficients, None if learner.head is None else tangent),
        composite=CompositeForm(outputs, loss_of_outputs),
        parts=parts,
        no_second_order=learner.no_second_order,
        compute_dtype=learner.autocast,
        seed=seed,
        silent=silent,
        notes=notes or {},
        split=learner.split.why,
        known=known,
        processes=processes,
    )
