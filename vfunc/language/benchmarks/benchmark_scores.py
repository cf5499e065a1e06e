"""Asks a learner a benchmark, and says what came out by question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.evaluation.pass_at_k import mean_and_standard_error, pass_at_k
from vfunc.language.benchmarks.kinds import Benchmark, Chosen, Written
from vfunc.language.benchmarks.log_likelihood import log_likelihoods
from vfunc.language.data.tokenise import prompt_tokens
from vfunc.language.evaluation.generation import complete, context_of

CUT = "_cut"
"""Prompts that the learner's context was too short for, so that their beginnings were cut off."""


@dataclass(frozen=True)
class Sampling:
    """How solutions are sampled.

    Attributes:
        ks: the k of Pass@k; none samples nothing.
        samples: solutions of each problem.
        temperature: what the logits are divided by.
        seed: of the samples; arms with one seed share their draws.
    """

    ks: tuple[int, ...] = ()
    samples: int = 1
    temperature: float = 0.8
    seed: int = 0


@dataclass(frozen=True)
class Scores:
    """Figures, and the numbers by question that they are means of.

    Attributes:
        metrics: figures by name.
        outcomes: numbers by question, by the metric's name.
        texts: what was written, by question; the greedy answer.
    """

    metrics: Mapping[str, float | None] = field(default_factory=dict)
    outcomes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    texts: tuple[str, ...] = ()


def scores(
    benchmark: Benchmark,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
) -> Scores:
    """Ask a benchmark.

    Args:
        benchmark: its questions.
        model: a causal language model.
        tokenizer: its tokeniser.
        sampling: what is sampled beside the greedy answers.
    """
    if isinstance(benchmark, Chosen):
        return _chosen(benchmark, model, tokenizer)
    return _written(benchmark, model, tokenizer, sampling)


def metric_names(benchmark: str, ks: Sequence[int]) -> list[str]:
    """The figures of a benchmark that tables show, its main one first."""
    if benchmark == "mmlu":
        return ["mmlu", "mmlu_macro"]
    return [benchmark, *(f"{benchmark}_pass_at_{k}" for k in ks)]


def summed_up(name: str, outcomes: Sequence[float]) -> dict[str, float | None]:
    """The mean over questions, its standard error, and how many there are."""
    mean, error = mean_and_standard_error(outcomes)
    return {name: mean, f"{name}_standard_error": error, f"{name}_examples": len(outcomes)}


def _chosen(
    benchmark: Chosen, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase
) -> Scores:
    name = benchmark.name
    asked = list(zip(benchmark.prompts, benchmark.choices, strict=True))
    found, cut = log_likelihoods(model, tokenizer, asked)
    picked = [max(range(len(row)), key=row.__getitem__) for row in found]  # the first of equals
    pairs = zip(picked, benchmark.answers, strict=True)
    right = tuple(float(ours == theirs) for ours, theirs in pairs)
    by_subject: dict[str, list[float]] = {}
    for subject, one in zip(benchmark.subjects, right, strict=True):
        by_subject.setdefault(subject, []).append(one)
    means = {subject: sum(ones) / len(ones) for subject, ones in sorted(by_subject.items())}
    metrics: dict[str, float | None] = summed_up(name, right)
    metrics[f"{name}_macro"] = sum(means.values()) / len(means)
    if len(means) > 1:
        metrics |= {f"{name}/{subject}": mean for subject, mean in means.items()}
    if cut:
        metrics[name + CUT] = cut
    return Scores(metrics, {name: right})


def _written(
    benchmark: Written,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sampling: Sampling,
) -> Scores:
    name = benchmark.name
    tokens, cut = _fitting(prompt_tokens(benchmark.prompts, tokenizer), model, benchmark.tokens)

    def answers(samples: int, temperature: float) -> list[list[str]]:
        found = complete(
            model,
            tokenizer,
            tokens,
            max_new_tokens=benchmark.tokens,
            temperature=temperature,
            samples=samples,
            seed=sampling.seed,
            batch_size=32,
            ending=benchmark.ending,
        )
        return [[one.text for one in row] for row in found]

    greedy = answers(1, 0.0)
    right = _right(benchmark, greedy)
    outcomes: dict[str, tuple[float, ...]] = {name: tuple(float(one[0]) for one in right)}
    if sampling.ks:
        sampled = _right(benchmark, answers(sampling.samples, sampling.temperature))
        for k in sampling.ks:
            outcomes[f"{name}_pass_at_{k}"] = tuple(
                pass_at_k(sampling.samples, sum(row), k) for row in sampled
            )
    metrics: dict[str, float | None] = {}
    for each, numbers in outcomes.items():
        metrics |= summed_up(each, numbers)
    if cut:
        metrics[name + CUT] = cut
    return Scores(metrics, outcomes, tuple(row[0] for row in greedy))


def _right(benchmark: Written, answers: Sequence[Sequence[str]]) -> list[list[bool]]:
    flat = [(number, text) for number, row in enumerate(answers) for text in row]
    judged = iter(benchmark.judge(flat))
    return [[next(judged) for _ in row] for row in answers]


def _fitting(
    prompts: Sequence[Sequence[int]], model: PreTrainedModel, room: int
) -> tuple[list[Sequence[int]], int]:
    """Prompts that leave room for an answer, cut off on the left; and how many were cut."""
    context = context_of(model)
    if context is None:
        return list(prompts), 0
    most = max(context - room, context // 2)
    return [p[-most:] for p in prompts], sum(len(p) > most for p in prompts)
