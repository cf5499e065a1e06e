"""The language modality as a `ValueProblem`: soft next-token targets, cross-entropy feedback."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vfunc.language.candidates import ObservedBatch, one_hot
from vfunc.language.examples import TokenBatch
from vfunc.language.soft_loss import candidate_log_probs, position_weights, soft_cross_entropy
from vfunc.language.targets import mix
from vfunc.learner import FunctionalLearner, RandomState, mode, replay_random_state
from vfunc.problem import LinearForm, Task, ValueProblem
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.trees import Params


@dataclass(frozen=True)
class LanguageLearner:
    """A causal language model as a pure function theta_S -> logits.

    Attributes:
        functional: the model and the subset S.
        autocast: the dtype that matrix products run in, or None for the parameters' own.
        dropout: the random state whose dropout masks are repeated; None evaluates without
            dropout.
    """

    functional: FunctionalLearner
    autocast: torch.dtype | None = None
    dropout: RandomState | None = None

    def logits(self, theta: Params, inputs: Tensor, *, dropout: bool) -> Tensor:
        """Logits (B, T, V); with `dropout`, the learner's own step's masks if it has any."""
        state = self.dropout if dropout else None
        module = self.functional.module
        with (
            mode(module, training=state is not None),
            replay_random_state(state, inputs.device),
            autocast(inputs.device, self.autocast),
        ):
            return self.functional(theta, input_ids=inputs, use_cache=False).logits


@contextlib.contextmanager
def autocast(device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """Mixed precision, without the weight cache: a cast of one theta must not serve another."""
    if dtype is None:
        yield
        return
    with torch.autocast(device.type, dtype=dtype, cache_enabled=False):
        yield


def language_problem(
    learner: LanguageLearner,
    designer: nn.Module,
    batches: tuple[ObservedBatch, ...],
    feedback: TokenBatch,
    rule: UpdateRule,
    state: OptimizerState,
    *,
    seed: int = 0,
) -> ValueProblem:
    """Ask how the designer's soft targets should change, to lower the loss on `feedback`.

    Args:
        learner: the model, its subset S and precision.
        designer: (TokenBatch, Observation) -> (r, alpha); phi are its named parameters.
        batches: unlabeled batches, observed at theta_t.
        feedback: the labelled batch; seen by `feedback_loss` alone.
        rule: the learner's next optimizer step.
        state: its optimizer state.
        seed: for what an estimator draws.

    Returns:
        The problem. Its objective is linear in the targets, task["q"].
    """

    def construct(phi: Params, observed: ObservedBatch) -> Task:
        r, alpha = functional_call(designer, phi, (observed.batch, observed.observation))
        return {
            "inputs": observed.batch.inputs,
            "candidates": observed.observation.candidates,
            "weight": position_weights(observed.batch.predict),
            "q": mix(alpha, r),
        }

    def coefficients(theta: Params, task: Task) -> Tensor:
        logits = learner.logits(theta, task["inputs"], dropout=True)
        log_p = candidate_log_probs(logits, task["candidates"], task["weight"])
        return -log_p * task["weight"].to(log_p.dtype).unsqueeze(-1)

    def parts(theta: Params, task: Task) -> Tensor:
        return (task["q"] * coefficients(theta, task)).sum(-1)

    def pretrain_loss(theta: Params, task: Task) -> Tensor:
        return (task["q"] * coefficients(theta, task)).sum()

    def feedback_loss(theta: Params) -> Tensor:
        return next_token_loss(learner.logits(theta, feedback.inputs, dropout=False), feedback)

    return ValueProblem(
        construct,
        pretrain_loss,
        feedback_loss,
        batches,
        rule,
        state,
        linear=LinearForm("q", coefficients),
        parts=parts,
        compute_dtype=learner.autocast,
        seed=seed,
    )


def next_token_loss(logits: Tensor, batch: TokenBatch) -> Tensor:
    """Ordinary cross-entropy of the true next tokens, a mean over the predicted positions."""
    candidates, q = one_hot(batch)
    return soft_cross_entropy(logits, candidates, q, position_weights(batch.predict))


def designed_targets(designer: nn.Module, observed: ObservedBatch) -> tuple[Any, Any]:
    """(q, alpha) of the designer's own parameters, detached: the task the learner steps on."""
    with torch.no_grad():
        r, alpha = designer(observed.batch, observed.observation)
        return mix(alpha, r), alpha
