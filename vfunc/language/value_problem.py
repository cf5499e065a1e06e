"""The language modality as a `ValueProblem`: soft next-token targets, cross-entropy feedback."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from vfunc.errors import UserError
from vfunc.language.candidates import ObservedBatch, one_hot
from vfunc.language.data.examples import TokenBatch
from vfunc.language.soft_loss import candidate_log_probs, position_weights, soft_cross_entropy
from vfunc.language.targets import mix
from vfunc.learner import FunctionalLearner, RandomState, mode, replay_random_state
from vfunc.precision import autocast
from vfunc.problem import CompositeForm, LinearForm, Task, ValueProblem
from vfunc.simulate import OptimizerState, UpdateRule
from vfunc.split import Split, Whole, split_at_edge
from vfunc.trees import Params, Scalar


@dataclass(frozen=True)
class LanguageLearner:
    """A causal language model as a pure function theta_S -> logits.

    Attributes:
        functional: the model and the subset S.
        autocast: the dtype that matrix products run in, or None for the parameters' own.
        dropout: the random state whose dropout masks are repeated; None evaluates without
            dropout.
        split: where it is cut at the lower edge of S, so that estimates compute what is below
            once; None never cuts. Not together with `dropout`: masks would not be the same.
    """

    functional: FunctionalLearner
    autocast: torch.dtype | None = None
    dropout: RandomState | None = None
    split: Split | None = None

    def __post_init__(self) -> None:
        if self.dropout is not None and self.split is not None:
            raise UserError("a learner whose dropout is repeated cannot be split: give one of both")

    def logits(
        self, theta: Params, inputs: Tensor, *, dropout: bool, edge: Tensor | None = None
    ) -> Tensor:
        """Logits (B, T, V); with `dropout`, the learner's own step's masks if it has any.

        With an `edge` (B, T, D), the blocks below S are not run: it is what they give.
        """
        state = self.dropout if dropout else None
        arguments: dict[str, Any] = {"input_ids": inputs, "use_cache": False}
        with self._in_its_mode(inputs, state):
            if edge is None:
                return self.functional(theta, **arguments).logits
            assert self.split is not None
            return self.split.suffix(self.functional, theta, edge, **arguments).logits

    def at_edge(self, observed: ObservedBatch) -> ObservedBatch:
        """The batch with its edge, computed now unless it is known; without one if not split."""
        if self.split is None:
            return replace(observed, edge=None)
        if observed.edge is not None:
            return observed
        inputs = observed.batch.inputs
        with torch.no_grad(), self._in_its_mode(inputs, None):
            edge = self.split.prefix(self.functional, input_ids=inputs, use_cache=False)
        return replace(observed, edge=edge)

    def split_for(self, inputs: Tensor) -> Split | Whole:
        """Where S allows this learner to be cut, tried on these tokens; see `split_at_edge`."""
        if self.dropout is not None:
            return Whole("estimates repeat the dropout of the learner's step in every block")
        with self._in_its_mode(inputs, None):
            return split_at_edge(self.functional, input_ids=inputs, use_cache=False)

    @contextlib.contextmanager
    def _in_its_mode(self, inputs: Tensor, dropout: RandomState | None) -> Iterator[None]:
        with (
            mode(self.functional.module, training=dropout is not None),
            replay_random_state(dropout, inputs.device),
            autocast(inputs.device, self.autocast),
        ):
            yield

    @property
    def no_second_order(self) -> str | None:
        """Why its attention can be differentiated once alone, or None: see `ValueProblem`."""
        config = getattr(self.functional.module, "config", None)
        attention = getattr(config, "_attn_implementation", None)
        if attention in (None, "eager", "sdpa"):
            return None
        return f"{attention} attention has neither a forward mode nor a double backward"


def language_problem(
    learner: LanguageLearner,
    designer: nn.Module,
    batches: tuple[ObservedBatch, ...],
    feedback: TokenBatch | Callable[[Params], Scalar],
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
        feedback: the labelled batch, seen by `feedback_loss` alone; or that loss itself.
        rule: the learner's next optimizer step.
        state: its optimizer state.
        seed: for what an estimator draws.

    Returns:
        The problem. Its objective is linear in the targets, task["q"].
    """

    def construct(phi: Params, observed: ObservedBatch) -> Task:
        r, alpha = functional_call(designer, phi, (observed.batch, observed.observation))
        edge = {} if observed.edge is None else {"edge": observed.edge}
        return {
            **edge,
            "inputs": observed.batch.inputs,
            "candidates": observed.observation.candidates,
            "weight": position_weights(observed.batch.predict),
            "q": mix(alpha, r),
        }

    def outputs(theta: Params, task: Task) -> Tensor:
        return learner.logits(theta, task["inputs"], dropout=True, edge=task.get("edge"))

    def weighted(logits: Tensor, task: Task) -> Tensor:
        log_p = candidate_log_probs(logits, task["candidates"], task["weight"])
        return -log_p * task["weight"].to(log_p.dtype).unsqueeze(-1)

    def coefficients(theta: Params, task: Task) -> Tensor:
        return weighted(outputs(theta, task), task)

    def loss_of_outputs(logits: Tensor, task: Task) -> Tensor:
        return (task["q"] * weighted(logits, task)).sum()

    def parts(theta: Params, task: Task) -> Tensor:
        return (task["q"] * coefficients(theta, task)).sum(-1)

    def pretrain_loss(theta: Params, task: Task) -> Tensor:
        return (task["q"] * coefficients(theta, task)).sum()

    return ValueProblem(
        construct,
        pretrain_loss,
        worked_loss(learner, feedback) if isinstance(feedback, TokenBatch) else feedback,
        tuple(map(learner.at_edge, batches)),
        rule,
        state,
        linear=LinearForm("q", coefficients),
        composite=CompositeForm(outputs, loss_of_outputs),
        parts=parts,
        no_second_order=learner.no_second_order,
        compute_dtype=learner.autocast,
        seed=seed,
    )


def worked_loss(learner: LanguageLearner, batch: TokenBatch) -> Callable[[Params], Scalar]:
    """L_down on worked solutions: theta_S -> `next_token_loss`, without dropout."""

    def loss(theta: Params) -> Scalar:
        return next_token_loss(learner.logits(theta, batch.inputs, dropout=False), batch)

    return loss


def next_token_loss(logits: Tensor, batch: TokenBatch) -> Tensor:
    """Ordinary cross-entropy of the true next tokens, a mean over the predicted positions."""
    candidates, q = one_hot(batch)
    return soft_cross_entropy(logits, candidates, q, position_weights(batch.predict))


def designed_targets(designer: nn.Module, observed: ObservedBatch) -> tuple[Any, Any]:
    """(q, alpha) of the designer's own parameters, detached: the task the learner steps on."""
    with torch.no_grad():
        r, alpha = designer(observed.batch, observed.observation)
        return mix(alpha, r), alpha
