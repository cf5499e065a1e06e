"""Computes a language run's feedback losses: one task or several, solutions or rewards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.feedback import weighted_feedback
from vfunc.forward_pass import autocast
from vfunc.language.data.examples import TokenBatch, take_rows
from vfunc.language.feedback_options import FeedbackTasks
from vfunc.language.learner import LanguageLearner
from vfunc.language.rewards import PromptBatch, draw_samples, surrogate
from vfunc.language.soft_targets.candidates import ObservedBatch
from vfunc.problem import InParts, ValueProblem
from vfunc.processes import ALONE, Processes
from vfunc.trees import Params, Scalar

FeedbackBatch = TokenBatch | PromptBatch


@dataclass(frozen=True)
class Measured:
    """L_down on one feedback batch, and the tasks' losses that make it.

    Attributes:
        loss: theta_S -> L_down: the only task's loss, or the weighted sum of them (paper, equation
            18); where tasks are matched, their mean.
        losses: theta_S -> L_j by task; those of which the batch holds something.
        silent: the tasks among them whose loss is constant.
        notes: numbers for the log.
        whole: see `vfunc.workload.Downstream`.
        constant: see there.
    """

    loss: Callable[[Params], Scalar]
    losses: Mapping[str, Callable[[Params], Scalar]]
    silent: frozenset[str]
    notes: Mapping[str, float]
    whole: bool = True
    constant: bool = False


def measure(
    tasks: FeedbackTasks,
    learner: LanguageLearner,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase | None,
    feedback: FeedbackBatch,
    seed: int,
    processes: Processes = ALONE,
) -> Measured:
    """L_down on a labelled batch; rewards are drawn here, at the live learner's theta_t.

    Args:
        tasks: the tasks, and their combination into one loss.
        learner: theta_S -> logits.
        model: the live learner that generates.
        tokenizer: the learner's tokeniser; rewards need it.
        feedback: a labelled batch, of all tasks.
        seed: seed of the samples.
        processes: the processes whose feedback this is a part of.

    Returns:
        The losses, and what there is to say about them.
    """
    rows, whole = _rows_by_task(tasks.names, feedback), tasks.combine != "matched"
    if isinstance(feedback, TokenBatch):
        parts = {n: feedback if at is None else take_rows(feedback, at) for n, at in rows.items()}
        own = {name: int(part.predict.sum()) for name, part in parts.items()}
        losses = {
            name: learner.worked_loss(replace(parts[name], count=count)) if name in parts else _none
            for name, count in _counts(tasks.names, own, processes).items()
        }
        combined = _combined(tasks, losses, learner, processes)
        return Measured(combined, losses, frozenset(), {}, whole)
    assert tasks.rewards is not None and tokenizer is not None
    with autocast(model.device, learner.autocast):
        samples = draw_samples(
            model, tokenizer, feedback, tasks.rewards, seed * processes.size + processes.rank
        )
    worth = samples.advantages
    own = {name: len(worth if at is None else at) for name, at in rows.items()}
    losses = {
        name: surrogate(learner, samples, tasks.rewards.temperature, rows[name], count)
        if name in rows
        else _none
        for name, count in _counts(tasks.names, own, processes).items()
    }
    speaking = processes.totals(
        *(
            float(bool(worth[... if rows[name] is None else rows[name]].any()))
            if name in rows
            else 0.0
            for name in losses
        )
    )
    silent = frozenset(n for n, some in zip(losses, speaking, strict=True) if not some)
    lengths = samples.batch.predict.sum(-1).double()
    notes = {
        "reward": float(samples.rewards.mean()),
        "informative_groups": float(samples.informative),
        "completion_tokens": float(lengths.mean()),
    }
    means = (total / processes.size for total in processes.totals(*notes.values()))
    return Measured(
        _combined(tasks, losses, learner, processes),
        losses,
        silent,
        dict(zip(notes, means, strict=True)),
        whole,
        set(losses) <= silent,
    )


def measure_bank(
    tasks: FeedbackTasks,
    learner: LanguageLearner,
    batches: Sequence[TokenBatch],
    processes: Processes = ALONE,
) -> Measured:
    """L_down on the worked solutions of several batches together, in as many parts.

    Every task's loss is its mean over the predicted tokens of all batches, as if they were one.

    Args:
        tasks: the tasks, and the weights of their losses.
        learner: theta_S -> logits.
        batches: labelled batches, of all tasks; this process's share.
        processes: the processes whose feedback these are a part of.

    Returns:
        The losses, each `InParts`.
    """
    held = [
        {n: batch if at is None else take_rows(batch, at) for n, at in rows.items()}
        for batch in batches
        for rows in (_rows_by_task(tasks.names, batch),)
    ]
    own = (
        sum(int(part[name].predict.sum()) for part in held if name in part) for name in tasks.names
    )
    counts = zip(tasks.names, processes.totals(*own), strict=True)
    losses: dict[str, Callable[[Params], Scalar]] = {
        name: InParts(
            tuple(
                learner.worked_loss(replace(part[name], count=int(count)))
                if name in part
                else _none
                for part in held
            )
        )
        for name, count in counts
        if count
    }
    return Measured(_combined(tasks, losses, learner, processes), losses, frozenset(), {})


def _counts(
    names: tuple[str, ...], own: Mapping[str, int], processes: Processes
) -> dict[str, int | None]:
    """What each task's mean divides by in all processes, of the tasks that any of them holds."""
    if processes.alone:  # its own, which it counts itself
        return dict.fromkeys(own)
    totals = processes.totals(*(own.get(name, 0) for name in names))
    return {name: int(total) for name, total in zip(names, totals, strict=True) if total}


def _none(theta: Params) -> Scalar:
    """The part of a process that holds nothing of a task."""
    first = next(iter(theta.values()))
    return torch.zeros((), dtype=first.dtype, device=first.device)


def matched_domains(
    tasks: FeedbackTasks, problem: ValueProblem, measured: Measured, theta: Params
) -> ValueProblem:
    """The problem with one of its own for each domain that feedback and every batch hold.

    Args:
        tasks: the domains' names.
        problem: the problem of all domains at once; its batches are `ObservedBatch`es.
        measured: each domain's L_down.
        theta: theta_t, where they are normalised if they are to be.

    Returns:
        The problem with its `domains`; silent where all of them are, or there is none.
    """
    found: dict[str, ValueProblem] = {}
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
    # a domain that either the text or the feedback lacks says nothing here
    return replace(problem, domains=found, silent=set(found) <= measured.silent)


def _combined(
    tasks: FeedbackTasks,
    losses: Mapping[str, Callable[[Params], Scalar]],
    learner: LanguageLearner,
    processes: Processes,
) -> Callable[[Params], Scalar]:
    """One loss of the tasks'; the weights of those that the batch lacks are left out."""
    if len(tasks.names) == 1:
        (only,) = losses.values()
        return only
    count = len(tasks.names)
    given = tasks.weights or (1 / count,) * count
    weights = {n: w for n, w in zip(tasks.names, given, strict=True) if n in losses}
    # matched tasks are normalised domain by domain
    normalise = tasks.normalise and tasks.combine == "sum"
    at = learner.functional.theta if normalise else None
    return weighted_feedback(losses, weights, normalise_at=at, processes=processes)


def _of_domain(observed: ObservedBatch, domain: int) -> ObservedBatch:
    return take_rows(observed, (_domains(observed.batch) == domain).nonzero().squeeze(-1))


def _rows_by_task(names: tuple[str, ...], feedback: FeedbackBatch) -> dict[str, Tensor | None]:
    """The rows (or groups) of each task; None where there is one task, of all of them."""
    if len(names) == 1:
        return {names[0]: None}
    domains = _domains(feedback)
    rows = ((name, (domains == d).nonzero().squeeze(-1)) for d, name in enumerate(names))
    return {name: at for name, at in rows if len(at)}


def _domains(batch: FeedbackBatch) -> Tensor:
    if batch.domains is not None:
        return batch.domains
    assert isinstance(batch, TokenBatch)
    return torch.zeros(len(batch.tokens), dtype=torch.long, device=batch.tokens.device)
