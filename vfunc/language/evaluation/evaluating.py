"""Evaluates a learner: held-out losses, and at the end what it solves and what benchmarks say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from vfunc.evaluation.pass_at_k import pass_at_k
from vfunc.forward_pass import autocast
from vfunc.language.benchmarks.benchmark_scores import Sampling, scores, summed_up
from vfunc.language.benchmarks.harness import HarnessTasks, scores_by_harness
from vfunc.language.benchmarks.kinds import Benchmark
from vfunc.language.data.examples import TokenBatch
from vfunc.language.data.reading import LanguageData
from vfunc.language.evaluation.held_out import held_out_loss
from vfunc.language.evaluation.solving import pass_at_1
from vfunc.language.trimmed.trim import WHOLE, Trim
from vfunc.workload import Evaluation

NO_SAMPLES = Sampling()
Numbers = tuple[float | None, ...]


@dataclass(frozen=True)
class AtEnd:
    """What a learner is evaluated on at the start and the end, beside the held-out data.

    Attributes:
        benchmarks: benchmarks to ask.
        sampling: what is sampled beside greedy solutions.
        harness: tasks of the evaluation harness; None asks none.
        solve_on_the_way: whether held-out problems are solved, greedily, at every evaluation.
    """

    benchmarks: tuple[Benchmark, ...] = ()
    sampling: Sampling = NO_SAMPLES
    harness: HarnessTasks | None = None
    solve_on_the_way: bool = False


@dataclass(frozen=True)
class Forwards:
    """How the learner's forwards are taken.

    Attributes:
        device: the learner's device.
        dtype: dtype of autocast, or None.
        trim: what a forward over held-out texts can do without.
    """

    device: torch.device
    dtype: torch.dtype | None = None
    trim: Trim = WHOLE


def evaluated(
    learner: nn.Module,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: LanguageData,
    batches: Iterable[TokenBatch],
    forwards: Forwards,
    at_end: AtEnd,
    *,
    final: bool,
) -> Evaluation:
    """Evaluate a learner; it is left as it was.

    Args:
        learner: a causal language model, perhaps with adapters.
        model: the part of it that generates, of which adapters are layers.
        tokenizer: its tokeniser.
        data: the run's data.
        batches: `data.evaluation`, with what frozen blocks make of it.
        forwards: how forwards are taken.
        at_end: what is asked at the end alone.
        final: whether this is the end (or the start).
    """
    metrics, outcomes = _held_out(learner, data, batches, forwards)
    if final or at_end.solve_on_the_way:
        sampling = at_end.sampling if final else NO_SAMPLES
        with autocast(forwards.device, forwards.dtype):
            _solved(model, tokenizer, data, sampling, metrics, outcomes)
    if final:
        found = evaluated_at_end(model, tokenizer, forwards, at_end)
        metrics |= found.metrics
        outcomes |= found.outcomes
    return Evaluation(metrics, outcomes)


@dataclass(frozen=True)
class EndScores(Evaluation):
    """Scores of benchmarks and of the harness.

    Attributes:
        texts: what was written greedily, by benchmark and question.
    """

    texts: Mapping[str, tuple[str, ...]]


def evaluated_at_end(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    forwards: Forwards,
    at_end: AtEnd,
) -> EndScores:
    """Ask the benchmarks and the harness.

    Args:
        model: see `evaluated`.
        tokenizer: its tokeniser.
        forwards: how forwards are taken.
        at_end: what to ask.
    """
    metrics: dict[str, float | None] = {}
    outcomes: dict[str, Numbers] = {}
    texts: dict[str, tuple[str, ...]] = {}
    with autocast(forwards.device, forwards.dtype):
        for benchmark in at_end.benchmarks:
            found = scores(benchmark, model, tokenizer, at_end.sampling)
            metrics |= found.metrics
            outcomes |= found.outcomes
            if found.texts:
                texts[benchmark.name] = found.texts
    if at_end.harness is not None:
        found = scores_by_harness(at_end.harness, model, tokenizer, forwards.dtype)
        metrics |= found.metrics
        outcomes |= found.outcomes
    return EndScores(metrics, outcomes, texts)


def _held_out(
    learner: nn.Module, data: LanguageData, batches: Iterable[TokenBatch], forwards: Forwards
) -> tuple[dict[str, float | None], dict[str, Numbers]]:
    found = held_out_loss(
        learner, batches, forwards.device, forwards.dtype, data.measured, forwards.trim
    )
    metrics: dict[str, float | None] = {"loss": found.loss, "loss_examples": len(found.tokens)}
    outcomes: dict[str, Numbers] = {"loss": found.per_example}
    for name, covered in found.covered.items():
        metrics |= {
            f"loss_{name}": covered.loss,
            f"loss_{name}_tokens": sum(covered.tokens),
            f"accuracy_{name}": covered.accuracy,
        }
        outcomes[f"loss_{name}"], outcomes[f"accuracy_{name}"] = covered.by_example()
    return metrics, outcomes


def _solved(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: LanguageData,
    sampling: Sampling,
    metrics: dict[str, float | None],
    outcomes: dict[str, Numbers],
) -> None:
    """Greedy Pass@1 of the held-out problems, and Pass@k of samples where they are asked for."""
    if not data.problems:
        return
    most = data.max_new_tokens
    solved = pass_at_1(model, tokenizer, data.problems, max_new_tokens=most)
    metrics |= {
        "pass_at_1": solved.mean,
        "pass_at_1_standard_error": solved.standard_error,
        "pass_at_1_examples": solved.count,
    }
    if data.unmeasured:
        metrics["pass_at_1_left_out"] = sum(data.unmeasured.values())
    outcomes["pass_at_1"] = solved.outcomes
    if not sampling.ks:
        return
    drawn = pass_at_1(
        model,
        tokenizer,
        data.problems,
        max_new_tokens=most,
        temperature=sampling.temperature,
        samples=sampling.samples,
        seed=sampling.seed,
    )
    for k, name in sampled_names(sampling.ks).items():
        outcomes[name] = tuple(pass_at_k(drawn.samples, count, k) for count in drawn.correct)
        metrics |= summed_up(name, [x for x in outcomes[name] if x is not None])


def sampled_names(ks: Iterable[int]) -> Mapping[int, str]:
    """What Pass@k of sampled solutions is called, by k."""
    return {k: f"sampled_pass_at_{k}" for k in ks}
