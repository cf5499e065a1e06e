"""What the feedback of a language run measures: one task or several, solutions or rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.feedback import weighted_feedback
from vfunc.language.candidates import ObservedBatch
from vfunc.language.data.examples import TokenBatch, take_rows
from vfunc.language.feedback_options import FeedbackTasks
from vfunc.language.rewards import PromptBatch, draw_samples, surrogate
from vfunc.language.value_problem import LanguageLearner, worked_loss
from vfunc.precision import autocast
from vfunc.problem import ValueProblem
from vfunc.trees import Params, Scalar

FeedbackBatch = TokenBatch | PromptBatch


@dataclass(frozen=True)
class Measured:
    """The tasks' losses on one feedback batch.

    Attributes:
        losses: theta_S -> L_j by task; those of which the batch holds something.
        silent: the tasks among them whose loss is constant.
        notes: for the log.
    """

    losses: Mapping[str, Callable[[Params], Scalar]]
    silent: frozenset[str]
    notes: Mapping[str, float]


def measure(
    tasks: FeedbackTasks,
    learner: LanguageLearner,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    feedback: FeedbackBatch,
    seed: int,
) -> Measured:
    """The losses of each task; rewards are drawn here, at the live learner's theta_t.

    Args:
        tasks: which, and how.
        learner: theta_S -> logits.
        model: the live learner that generates.
        tokenizer: its tokenizer.
        feedback: a labelled batch, of all tasks.
        seed: of the draws.

    Returns:
        The losses, and what there is to say about them.
    """
    rows = _rows_by_task(tasks.names, feedback)
    if isinstance(feedback, TokenBatch):
        return Measured(
            {name: worked_loss(learner, take_rows(feedback, at)) for name, at in rows.items()},
            frozenset(),
            {},
        )
    assert tasks.rewards is not None
    with autocast(model.device, learner.autocast):
        samples = draw_samples(model, tokenizer, feedback, tasks.rewards, seed)
    losses = {
        name: surrogate(learner, samples, tasks.rewards.temperature, at)
        for name, at in rows.items()
    }
    silent = frozenset(name for name, at in rows.items() if not samples.advantages[at].any())
    lengths = samples.batch.predict.sum(-1).double()
    notes = {
        "reward": float(samples.rewards.mean()),
        "informative_groups": float(samples.informative),
        "completion_tokens": float(lengths.mean()),
    }
    return Measured(losses, silent, notes)


def total_loss(
    tasks: FeedbackTasks, measured: Measured, theta: Params
) -> Callable[[Params], Scalar]:
    """L_down as one loss: the weighted sum (paper, equation 18); the mean where tasks are matched.

    Args:
        tasks: their weights and normalisation (which matching does domain by domain instead).
        measured: the losses; the weights of those that the batch lacks are left out.
        theta: theta_t.
    """
    if len(tasks.names) == 1:
        (only,) = measured.losses.values()
        return only
    count = len(tasks.names)
    given = tasks.weights or (1 / count,) * count
    weights = {n: w for n, w in zip(tasks.names, given, strict=True) if n in measured.losses}
    normalise = tasks.normalise and tasks.combine == "sum"
    return weighted_feedback(measured.losses, weights, normalise_at=theta if normalise else None)


def matched_domains(
    tasks: FeedbackTasks, problem: ValueProblem, measured: Measured, theta: Params
) -> dict[str, ValueProblem]:
    """The problem of each domain that both the feedback and every unlabeled batch hold.

    Args:
        tasks: the domains' names.
        problem: of all domains at once; its batches are `ObservedBatch`es.
        measured: each domain's L_down.
        theta: theta_t, where they are normalised if they are to be.
    """
    if tasks.combine != "matched":
        return {}
    found = {}
    for domain, name in enumerate(tasks.names):
        batches = tuple(_of_domain(batch, domain) for batch in problem.batches)
        if name in measured.losses and all(len(batch.batch.tokens) for batch in batches):
            loss = measured.losses[name]
            if tasks.normalise:
                loss = weighted_feedback({name: loss}, normalise_at=theta)
            found[name] = replace(
                problem,
                batches=batches,
                feedback_loss=loss,
                silent=name in measured.silent,
                notes={},
            )
    return found


def _of_domain(observed: ObservedBatch, domain: int) -> ObservedBatch:
    return take_rows(observed, (_domains(observed.batch) == domain).nonzero().squeeze(-1))


def _rows_by_task(names: tuple[str, ...], feedback: FeedbackBatch) -> dict[str, Tensor]:
    """The rows (or groups) of each task; of a single one all, whatever their domain."""
    domains = _domains(feedback)
    if len(names) == 1:
        return {names[0]: torch.arange(len(domains), device=domains.device)}
    rows = ((name, (domains == d).nonzero().squeeze(-1)) for d, name in enumerate(names))
    return {name: at for name, at in rows if len(at)}


def _domains(batch: FeedbackBatch) -> Tensor:
    if batch.domains is not None:
        return batch.domains
    assert isinstance(batch, TokenBatch)
    return torch.zeros(len(batch.tokens), dtype=torch.long, device=batch.tokens.device)
