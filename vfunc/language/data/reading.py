"""Reads and tokenises all data of a language run: the embedded problem, or files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.language.data.arithmetic import STYLES
from vfunc.language.data.chat_format import ChatFormat, plain_chat
from vfunc.language.data.disk.stream_sources import PreparedStream
from vfunc.language.data.examples import Example, TokenBatch
from vfunc.language.data.mixture import source_names
from vfunc.language.data.sequences import (
    InterleavedStream,
    MixedStream,
    TokenStream,
    WeightedStream,
    fixed_batches,
)
from vfunc.language.data.sources import Split, load_examples
from vfunc.language.data.streams import StreamSpec, embedded_examples
from vfunc.language.data.tokenise import EncodedSet, encode_examples, prompt_tokens
from vfunc.language.evaluation.measured_tokens import TokenPattern, pattern_spans
from vfunc.language.rewards import PromptStream, checkable_prompts
from vfunc.language.sound_learner import require_known

EVALUATION_BATCH = 64
"""Sequences in an evaluation batch."""

PASS_AT_1 = "Pass@1"
"""What the summary calls the problems of Pass@1, where it leaves examples out."""
PROMPTS = "prompts"
"""What it calls the feedback's prompts, where some solutions have no answer that can be checked."""


@dataclass(frozen=True)
class LanguageData:
    """All data of a run, tokenised.

    Attributes:
        stream: unlabeled training sequences, in the run's order; of several sources in turn.
        feedback: labelled sequences, or prompts with answers, seen by `feedback_loss` alone; of
            several tasks in turn.
        evaluation: batches of every evaluation example, once.
        held_out: the evaluation sequences as a stream, for the probe.
        problems: evaluation examples with checkable answers, for Pass@1.
        unmeasured: numbers of evaluation examples that Pass@1 leaves out, by reason.
        max_new_tokens: largest number of tokens of a solution.
        measured: which predictions of the evaluation batches are measured apart, a mask for each
            batch, by the pattern's name.
        prompts: the feedback's prompts with their answers, where an arm is to be rewarded for them.
    """

    stream: TokenStream | InterleavedStream | WeightedStream | MixedStream
    feedback: TokenStream | InterleavedStream | PromptStream
    evaluation: tuple[TokenBatch, ...]
    held_out: TokenStream
    problems: tuple[Example, ...]
    max_new_tokens: int
    summary: Mapping[str, object] = field(default_factory=dict)
    unmeasured: Mapping[str, int] = field(default_factory=dict)
    measured: Mapping[str, tuple[Tensor, ...]] = field(default_factory=dict)
    prompts: PromptStream | None = None


@dataclass(frozen=True)
class Source:
    """A file or Hub id, which fields to read of it, and how many examples to keep.

    Attributes:
        name: the file or Hub id.
        fields: which fields are read; None recognises them.
        limit: how many examples are drawn; None are all.
        domain: number of its task; None is its place among the sources.
    """

    name: str
    fields: str | None = None
    limit: int | None = None
    domain: int | None = None


@dataclass(frozen=True)
class RawData:
    """Examples before they are tokenised.

    Attributes:
        stream: unlabeled text.
        feedback: labelled examples.
        evaluation: labelled examples.
        dropped: numbers of examples that reading dropped, by split and reason.
        sources: number of sources of the stream, to be read in turn; 1 reads it as one.
        tasks: names of the feedback's tasks, by their examples' domain; one name takes all as one.
        chat: whether some source holds conversations.
    """

    stream: Sequence[Example]
    feedback: Sequence[Example]
    evaluation: Sequence[Example]
    dropped: Mapping[str, Mapping[str, int]]
    sources: int = 1
    tasks: tuple[str, ...] = ("feedback",)
    chat: bool = False


def embedded_data(
    spec: StreamSpec,
    seed: int,
    *,
    stream: int,
    feedback: int,
    evaluation: int,
    split: str,
    by_style: bool = False,
) -> RawData:
    """The embedded problem: a stream with mistakes, clean feedback, clean evaluation.

    Args:
        spec: the stream's specification.
        seed: seed of the stream and the feedback; the evaluation's is fixed, so that runs
            with several seeds are judged on the same problems.
        stream: number of distinct problems in the stream.
        feedback: number of labelled problems.
        evaluation: number of problems to evaluate on.
        split: `validation` or `test`.
        by_style: whether the styles are feedback tasks of their own. The stream is the same.
    """
    return RawData(
        embedded_examples("stream", stream, spec, seed),
        embedded_examples("feedback", feedback, spec, seed),
        embedded_examples(split, evaluation, spec, 0),
        {},
        tasks=STYLES if by_style else ("feedback",),
    )


def file_data(
    stream: Sequence[Source] | None,
    feedback: Sequence[Source],
    evaluation: Source,
    seed: int,
    chat: ChatFormat = plain_chat,
    *,
    tasks: tuple[str, ...] | None = None,
) -> RawData:
    """Files or Hub data sets. Evaluation examples that are feedback too are left out, and counted.

    Args:
        stream: unlabeled text, or problems with solutions; several are read in turn. None leaves
            the stream to `vfunc.language.data.disk`.
        feedback: labelled examples, a source for each task.
        evaluation: labelled examples.
        seed: seed of the choice of examples where a limit is given.
        chat: how conversations are written.
        tasks: names of the feedback tasks, where sources are of tasks in common; None makes each
            source one.

    Raises:
        UserError: a source cannot be read, or every evaluation example is feedback.
    """
    splits: tuple[tuple[Split, Sequence[Source], int], ...] = (
        ("stream", stream or (), seed),
        ("feedback", feedback, seed),
        ("eval", (evaluation,), 0),
    )
    read = {split: _read_all(split, sources, n, chat) for split, sources, n in splits}
    seen = {(e.prompt, e.completion) for e in read["feedback"][0]}
    # an answer without a solution tells by its prompt alone
    prompts = {prompt for prompt, completion in seen if not completion}
    examples = read["eval"][0]
    kept = [e for e in examples if (e.prompt, e.completion) not in seen and e.prompt not in prompts]
    dropped = {split: counts for split, (_, counts, _) in read.items()}
    if not kept:
        raise UserError(
            f"every evaluation example of {evaluation.name} is among the feedback; give --eval "
            "another file"
        )
    if len(kept) < len(examples):
        dropped["eval"]["also in the feedback"] = len(examples) - len(kept)
    return RawData(
        read["stream"][0],
        read["feedback"][0],
        kept,
        dropped,
        sources=len(stream or ()),
        tasks=tasks or task_names([source.name for source in feedback]),
        chat=any(of_turns for _, _, of_turns in read.values()),
    )


def task_names(sources: Sequence[str]) -> tuple[str, ...]:
    """Names of the feedback tasks, a source each; of one alone, `feedback`.

    Args:
        sources: the feedback's sources.
    """
    return source_names(list(sources)) if len(sources) > 1 else ("feedback",)


def tokenised(
    raw: RawData,
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
    seed: int,
    *,
    feedback_length: int | None = None,
    rewarded: bool = False,
    prompted: bool = False,
    vocabulary: int | None = None,
    patterns: Sequence[TokenPattern] = (),
    solved: int | None = None,
    stream: PreparedStream | None = None,
) -> LanguageData:
    """Encode everything for one learner.

    Args:
        raw: the examples.
        tokenizer: the learner's tokeniser.
        sequence_length: T, largest number of predictions in a sequence.
        seed: seed of the order in which stream and feedback are read.
        feedback_length: the same as T for the feedback; None is T.
        rewarded: whether the feedback is prompts to complete, whose solutions are not read.
        prompted: whether its prompts are wanted, beside its solutions where these are read.
        vocabulary: rows of the learner's embedding, which the data's tokens are held to.
        patterns: what of the evaluation is measured apart.
        solved: how many problems are solved for Pass@1, the first; None are all.
        stream: the stream, where it is prepared; None encodes that of the raw data.

    Returns:
        The data, with a summary of counts: sequences, dropped by reason, truncated.

    Raises:
        UserError: a split with no usable example, or with a token that the learner does not know,
            or a pattern that covers nothing.
    """
    splits = {"stream": raw.stream, "feedback": raw.feedback, "eval": raw.evaluation}
    if rewarded:
        del splits["feedback"]
    if stream is not None:
        del splits["stream"]
    lengths = dict.fromkeys(splits, sequence_length)
    lengths["feedback"] = feedback_length or sequence_length
    encoded: dict[str, EncodedSet] = {
        split: encode_examples(
            examples, tokenizer, lengths[split], split=split, dropped=raw.dropped.get(split)
        )
        for split, examples in splits.items()
    }
    problems, unmeasured = _answerable(raw.evaluation, tokenizer, sequence_length)
    if solved is not None and solved < len(problems):
        problems, unmeasured = problems[:solved], {}
    summary = {
        split: {"sequences": len(e), "dropped": dict(e.dropped), "truncated": e.truncated}
        for split, e in encoded.items()
    }
    if stream is not None:
        summary = {"stream": dict(stream.summary), **summary}
    feedback: TokenStream | InterleavedStream | PromptStream
    asked = None
    if rewarded or prompted:
        prompts, dropped = checkable_prompts(raw.feedback, tokenizer, sequence_length)
        if vocabulary is not None:
            largest = (max(prompt.tokens) for prompt in prompts)
            require_known(largest, vocabulary, "feedback", tokenizer)
        asked = PromptStream(_by_domain(prompts, raw.tasks, "feedback"), seed + 1)
        counts = Counter(raw.dropped.get("feedback", {})) + Counter(dropped)
        kept = {"sequences": len(prompts), "dropped": dict(counts), "truncated": 0}
        if rewarded:
            summary = {"stream": summary["stream"], "feedback": kept, "eval": summary["eval"]}
        elif dropped:
            summary[PROMPTS] = kept
    if rewarded:
        assert asked is not None
        feedback = asked
    else:
        feedback = _stream(encoded["feedback"], raw.tasks, "feedback", seed + 1)
    if vocabulary is not None:
        for split, e in encoded.items():
            largest = (int(sequence.tokens.max()) for sequence in e.sequences)
            require_known(largest, vocabulary, split, tokenizer)
    if unmeasured:
        kept = {"sequences": len(problems), "dropped": dict(unmeasured), "truncated": 0}
        summary[PASS_AT_1] = kept
    return LanguageData(
        _stream(encoded["stream"], range(raw.sources), "stream", seed)
        if stream is None
        else stream.stream,
        feedback,
        fixed_batches(encoded["eval"], EVALUATION_BATCH),
        TokenStream(encoded["eval"], seed),
        problems,
        max(len(s.tokens) - s.predict_from for s in encoded["eval"].sequences),
        summary,
        unmeasured,
        {p.name: _covered(p, raw.evaluation, tokenizer, sequence_length) for p in patterns},
        asked if prompted else None,
    )


def _covered(
    pattern: TokenPattern,
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    sequence_length: int,
) -> tuple[Tensor, ...]:
    """Which predictions of each evaluation batch a pattern covers: spans go to tokens as mistakes'.

    Raises:
        UserError: none.
    """
    spans = pattern_spans(pattern, [example.completion for example in examples])
    marked = [replace(e, wrong=covered) for e, covered in zip(examples, spans, strict=True)]
    encoded = encode_examples(marked, tokenizer, sequence_length, split="eval")
    batches = fixed_batches(encoded, EVALUATION_BATCH)
    masks = tuple(batch.wrong & batch.predict for batch in batches)
    if not any(bool(mask.any()) for mask in masks):
        raise UserError(
            f"--measure-tokens {pattern.pattern}: matches no held-out token; it is looked for in "
            "the completions alone, of which --seq-len may cut the end"
        )
    return masks


def _stream(
    encoded: EncodedSet, names: Sequence[object], split: str, seed: int
) -> TokenStream | InterleavedStream:
    """One stream, or one of several domains in turn."""
    if len(names) == 1:
        return TokenStream(encoded, seed)
    domains = _by_domain(tuple(encoded.sequences), names, split)
    sets = tuple(replace(encoded, sequences=sequences) for sequences in domains)
    return InterleavedStream(sets, seed)


def _by_domain(
    items: Sequence[Any], names: Sequence[object], split: str
) -> tuple[tuple[Any, ...], ...]:
    """The items of each domain; all of them where there is one name."""
    if len(names) == 1:
        return (tuple(items),)
    domains = tuple(tuple(i for i in items if i.domain == d) for d in range(len(names)))
    for name, part in zip(names, domains, strict=True):
        if not part:
            raise UserError(f"the {split} data hold nothing to use of {name}; give more of it")
    return domains


def _read_all(
    split: Split, sources: Sequence[Source], seed: int, chat: ChatFormat
) -> tuple[list[Example], dict[str, int], bool]:
    """The examples of all sources, marked by their source, what was dropped, and if any is chat."""
    examples: list[Example] = []
    dropped: Counter[str] = Counter()
    of_turns = False
    for place, s in enumerate(sources):
        domain = place if s.domain is None else s.domain
        loaded = load_examples(
            s.name, split=split, fields=s.fields, limit=s.limit, seed=seed, chat=chat
        )
        of_turns |= loaded.chat
        examples += [replace(e, domain=domain) if domain else e for e in loaded.examples]
        dropped.update(loaded.dropped)
    return examples, dict(dropped), of_turns


def _answerable(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, sequence_length: int
) -> tuple[tuple[Example, ...], dict[str, int]]:
    """Evaluation examples that can be asked and checked; and numbers of the others, by reason."""
    problems: list[Example] = []
    left_out: Counter[str] = Counter()
    prompts = prompt_tokens([e.prompt for e in examples], tokenizer)
    for example, prompt in zip(examples, prompts, strict=True):
        reason = _unanswerable(example, prompt, sequence_length)
        if reason is None:
            problems.append(example)
        else:
            left_out[reason] += 1
    return tuple(problems), dict(left_out)


def _unanswerable(example: Example, prompt: Sequence[int], sequence_length: int) -> str | None:
    if not example.prompt:
        return "no prompt"
    if example.answer is None:
        return "no answer that can be read"
    return "a prompt longer than --seq-len" if len(prompt) > sequence_length else None
