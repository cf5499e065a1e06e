"""Feedback from rewards: completions of the learner's own, scored by a verifier.

A checkable answer is enough; worked solutions are never read. For each prompt x_i a group of G
completions is drawn from the learner at theta_t and scored. With the advantage of a completion
being its reward minus the mean reward of the *others* of its group (Kool et al. 2019, "Buy 4
REINFORCE samples, get a baseline for free!"; the reward minus the whole group's mean, times
G / (G - 1)),

    L_down(theta) = -(1 / N) sum_i A_i sum_t log p_theta(y_it | x_i, y_i<t)

over all N completions, a *sum* over each one's tokens, the end of text included. Samples and
advantages are constants: an honest function of theta, whose gradient at theta_t is in expectation
exactly that of the negative expected reward. It is GRPO's objective (Shao et al. 2024, arXiv
2402.03300) without its ratio, its clipping and its division by the group's standard deviation; at
theta_t ratio and clipping do not change the gradient. The level of L_down means nothing, and away
from theta_t a decrease stands for a gain in expected reward to first order only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.language.data.examples import Example, TokenBatch, take_rows
from vfunc.language.data.sequences import collate, in_turn
from vfunc.language.data.tokenise import Encoded, prompt_tokens
from vfunc.language.evaluation.answers import is_correct
from vfunc.language.evaluation.generation import complete
from vfunc.language.feedback_options import RewardOptions
from vfunc.language.learner import LanguageLearner
from vfunc.language.soft_targets.soft_loss import soft_cross_entropy
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed

Verifier = Callable[[str, str], float]
"""(completion, reference answer) -> reward."""

NO_ANSWER = "no checkable answer"
NO_PROMPT = "no prompt"
TOO_LONG = "a prompt that fills the sequence"


@dataclass(frozen=True)
class Prompt:
    """A prompt's tokens and the answer that is right, with its text; no solution."""

    tokens: tuple[int, ...]
    answer: str
    domain: int = 0
    text: str = ""


@dataclass(frozen=True)
class PromptBatch:
    """Prompts to complete: the feedback batch where feedback is a reward."""

    prompts: tuple[Prompt, ...]

    @property
    def domains(self) -> Int[Tensor, "B"]:
        """The domain of each prompt."""
        return torch.tensor([prompt.domain for prompt in self.prompts])


@dataclass(frozen=True, eq=False)
class PromptStream:
    """An endless order of prompts, one of each source in turn; see `TokenStream`.

    Attributes:
        sources: the prompts of each.
        seed: seed of their orders.
    """

    sources: tuple[tuple[Prompt, ...], ...]
    seed: int

    @property
    def distinct(self) -> int:
        """See `TokenStream.distinct`."""
        return min(map(len, self.sources)) * len(self.sources)

    @typed
    def batch(self, position: int, batch_size: int) -> PromptBatch:
        """See `TokenStream.batch`."""
        return PromptBatch(tuple(in_turn(self.sources, self.seed, position, batch_size)))


@dataclass(frozen=True)
class Samples:
    """Completions drawn at theta_t, with what each is worth: constants of the surrogate.

    Attributes:
        batch: prompts with their completions, a row each, a prompt's G in succession; the
            completions are what is predicted. On the learner's device.
        rewards: rewards, a row a prompt.
        advantages: reward minus the mean of the group's others.
    """

    batch: TokenBatch
    rewards: Float[Tensor, "N G"]
    advantages: Float[Tensor, "N G"]

    @property
    def informative(self) -> Float[Tensor, ""]:
        """The share of groups whose rewards differ; only they have a gradient."""
        return (self.advantages != 0).any(-1).double().mean()


@typed
def checkable_prompts(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, sequence_length: int
) -> tuple[tuple[Prompt, ...], dict[str, int]]:
    """The prompts that can be completed and checked. No completion is looked at.

    Args:
        examples: examples with prompts and answers.
        tokenizer: the learner's.
        sequence_length: prompts have to be shorter.

    Returns:
        The prompts, and how many examples were dropped, by reason.

    Raises:
        UserError: none is left.
    """
    dropped: dict[str, int] = {}
    prompts = []
    tokens = prompt_tokens([example.prompt for example in examples], tokenizer)
    for example, ids in zip(examples, tokens, strict=True):
        reason = _unusable(example, ids, sequence_length)
        if reason is None:
            assert example.answer is not None
            prompts.append(Prompt(tuple(ids), example.answer, example.domain, example.prompt))
        else:
            dropped[reason] = dropped.get(reason, 0) + 1
    if not prompts:
        why = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise UserError(f"the feedback holds nothing to reward: dropped {why or 'nothing'}.")
    return tuple(prompts), dropped


@typed
def draw_samples(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: PromptBatch,
    options: RewardOptions,
    seed: int,
    verifier: Verifier = is_correct,
) -> Samples:
    """Let the learner complete each prompt G times, and score what it wrote.

    In eval mode, from generators of their own: random state and modes are left as they were.

    Args:
        model: the live learner; its parameters are theta_t.
        tokenizer: the learner's tokeniser.
        prompts: prompts with their right answers.
        options: options of the sampling.
        seed: seed of the samples; the same gives the same completions.
        verifier: (completion, answer) -> reward; by default 1 if the answer is right, else 0.

    Returns:
        The samples, on the model's device.

    Raises:
        UserError: what `vfunc.language.evaluation.generation.complete` refuses.
    """
    groups = complete(
        model,
        tokenizer,
        [prompt.tokens for prompt in prompts.prompts],
        max_new_tokens=options.max_new_tokens,
        temperature=options.temperature,
        samples=options.samples,
        seed=seed,
    )
    rows, rewards = [], []
    for prompt, group in zip(prompts.prompts, groups, strict=True):
        for completion in group:
            tokens = torch.tensor([*prompt.tokens, *completion.tokens], dtype=torch.int32)
            nothing_wrong = torch.zeros(len(tokens), dtype=torch.bool)
            rows.append(Encoded(tokens, len(prompt.tokens), nothing_wrong, prompt.domain))
        rewards.append([float(verifier(one.text, prompt.answer)) for one in group])
    scored = torch.tensor(rewards, dtype=torch.float64)
    pad = tokenizer.eos_token_id
    assert isinstance(pad, int)
    return Samples(collate(rows, pad).to(model.device), scored, advantages_of(scored))


@typed
def advantages_of(rewards: Float[Tensor, "N G"]) -> Float[Tensor, "N G"]:
    """Each reward minus the mean of its group's others; exactly zero where all are equal."""
    others = (rewards.sum(-1, keepdim=True) - rewards) / (rewards.shape[-1] - 1)
    equal = (rewards == rewards[:, :1]).all(-1, keepdim=True)
    return torch.where(equal, 0.0, rewards - others)


def surrogate(
    learner: LanguageLearner,
    samples: Samples,
    temperature: float,
    groups: Tensor | None = None,
    count: int | None = None,
) -> Callable[[Params], Scalar]:
    """The policy-gradient surrogate L_down of the samples (see the module).

    Rows without an advantage are left out of the learner's pass: they would add exact zeros.

    Args:
        learner: theta_S -> logits.
        samples: drawn at theta_t.
        temperature: they were drawn at.
        groups: indices of the groups to take, of which the mean is; None takes all.
        count: how many groups the mean is of, where other processes hold more; None is these.

    Returns:
        theta_S -> L_down, once differentiable.
    """
    worth = samples.advantages
    chosen = torch.arange(len(worth)) if groups is None else groups
    size = worth.shape[-1]
    rows = (chosen[:, None] * size + torch.arange(size)).flatten()
    advantages = worth.flatten()[rows]
    rows, advantages = rows[advantages != 0], advantages[advantages != 0]
    completions = size * (len(chosen) if count is None else count)
    batch = take_rows(samples.batch, rows)
    weight = batch.predict * (advantages / completions).to(batch.predict.device)[:, None]

    def loss(theta: Params) -> Scalar:
        if not len(rows):
            first = next(iter(theta.values()))
            return torch.zeros((), dtype=first.dtype, device=first.device)
        logits = learner.logits_at(theta, batch) / temperature
        chosen_tokens = batch.next_tokens.unsqueeze(-1)
        return soft_cross_entropy(
            logits, chosen_tokens, torch.ones_like(chosen_tokens, dtype=logits.dtype), weight
        )

    return loss


def _unusable(example: Example, tokens: Sequence[int], sequence_length: int) -> str | None:
    if not example.prompt:
        return NO_PROMPT
    if not example.answer:
        return NO_ANSWER
    return TOO_LONG if len(tokens) >= sequence_length else None
