"""Measures Pass@k: the share of problems that a learner solves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import mean_and_standard_error, pass_at_k
from vfunc.language.data.examples import Example
from vfunc.language.evaluation.answers import is_correct
from vfunc.language.evaluation.generation import ANSWERED, generate
from vfunc.typecheck import typed


@dataclass(frozen=True)
class PassResult:
    """The share of problems that a learner solves.

    Attributes:
        outcomes: for each problem the share of its completions that are right: 0 or 1 where
            there is one completion. The input of a paired comparison.
        mean: Pass@1, the mean of `outcomes`.
        standard_error: standard error of the mean over problems; None for a single problem.
        count: number of problems.
        samples: number of completions a problem.
        correct: for each problem how many of them are right.
        by_k: Pass@k and its standard error over problems, by k.
        texts: the completions, a tuple a problem, if kept.
    """

    outcomes: tuple[float, ...]
    mean: float
    standard_error: float | None
    count: int
    samples: int
    correct: tuple[int, ...]
    by_k: dict[int, tuple[float, float | None]]
    texts: tuple[tuple[str, ...], ...] | None = None


@typed
def pass_at_1(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    examples: Sequence[Example],
    *,
    max_new_tokens: int,
    temperature: float | int = 0.0,
    samples: int = 1,
    seed: int = 0,
    batch_size: int = 128,
    ks: Sequence[int] = (1,),
    keep_texts: bool = False,
) -> PassResult:
    """The share of problems whose completion states the right answer first, and Pass@k.

    A completion ends where it has stated an answer: what a learner writes after it counts neither
    for nor against it.

    Args:
        model: a causal language model.
        tokenizer: its tokeniser.
        examples: problems with an answer each.
        max_new_tokens: largest number of tokens in a completion.
        temperature: 0 for greedy decoding.
        samples: number of completions a problem.
        seed: seed of the samples.
        batch_size: number of completions at a time.
        ks: the k of Pass@k, each at most `samples`.
        keep_texts: whether the result keeps the completions.

    Returns:
        Outcomes, Pass@1 and Pass@k, with standard errors over problems.

    Raises:
        UserError: no examples, one without an answer, a k above `samples`, or what `generate`
            refuses.
    """
    if not examples:
        raise UserError("no problems to solve: the evaluation data are empty.")
    answers: list[str] = []
    for number, example in enumerate(examples):
        if not example.answer:
            raise UserError(f"evaluation example {number} has no answer to check against.")
        answers.append(example.answer)
    for k in ks:
        pass_at_k(samples, 0, k)  # refuses an impossible k before the work, not after it
    texts = generate(
        model,
        tokenizer,
        [example.prompt for example in examples],
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        samples=samples,
        seed=seed,
        batch_size=batch_size,
        ending=ANSWERED,
    )
    correct = [
        sum(is_correct(text, answer) for text in completions)
        for completions, answer in zip(texts, answers, strict=True)
    ]
    outcomes = tuple(count / samples for count in correct)
    mean, error = mean_and_standard_error(outcomes)
    return PassResult(
        outcomes=outcomes,
        mean=mean,
        standard_error=error,
        count=len(examples),
        samples=samples,
        correct=tuple(correct),
        by_k={
            k: mean_and_standard_error([pass_at_k(samples, count, k) for count in correct])
            for k in ks
        },
        texts=tuple(tuple(completions) for completions in texts) if keep_texts else None,
    )
