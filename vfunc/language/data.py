"""Everything a language run reads, gathered and tokenised: the embedded problem, or files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from transformers import PreTrainedTokenizerBase

from vfunc.errors import UserError
from vfunc.language.batches import TokenStream, fixed_batches
from vfunc.language.examples import Example, TokenBatch
from vfunc.language.sources import Loaded, Role, load_examples
from vfunc.language.streams import StreamSpec, embedded_examples
from vfunc.language.tokenise import EncodedSet, encode_examples, prompt_tokens

EVALUATION_BATCH = 64
"""Sequences in an evaluation batch."""


@dataclass(frozen=True)
class LanguageData:
    """Everything a run reads, tokenised.

    Attributes:
        stream: unlabeled training sequences, in the run's order.
        feedback: labelled sequences, seen by `feedback_loss` alone.
        evaluation: batches of every evaluation example, once.
        held_out: the evaluation sequences as a stream, for the probe.
        problems: evaluation examples with checkable answers, for Pass@1.
        max_new_tokens: the longest solution that is waited for.
    """

    stream: TokenStream
    feedback: TokenStream
    evaluation: tuple[TokenBatch, ...]
    held_out: TokenStream
    problems: tuple[Example, ...]
    max_new_tokens: int
    summary: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A file or Hub id, which fields to read of it, and how many examples to keep."""

    name: str
    fields: str | None = None
    limit: int | None = None


@dataclass(frozen=True)
class RawData:
    """Examples before they are tokenised, with what reading dropped."""

    stream: Sequence[Example]
    feedback: Sequence[Example]
    evaluation: Sequence[Example]
    dropped: Mapping[str, Mapping[str, int]]


def embedded_data(
    spec: StreamSpec, seed: int, *, stream: int, feedback: int, evaluation: int, split: str
) -> RawData:
    """The embedded problem: a stream with mistakes, clean feedback, clean evaluation.

    Args:
        spec: what the stream is like.
        seed: of the draw of the stream and the feedback; the evaluation's is fixed, so that runs
            with several seeds are judged on the same problems.
        stream: distinct problems in the stream.
        feedback: labelled problems.
        evaluation: problems to evaluate on.
        split: `validation` or `test`.
    """
    return RawData(
        embedded_examples("stream", stream, spec, seed),
        embedded_examples("feedback", feedback, spec, seed),
        embedded_examples(split, evaluation, spec, 0),
        {},
    )


def file_data(stream: Source, feedback: Source, evaluation: Source, seed: int) -> RawData:
    """Files or Hub data sets. Evaluation examples that are feedback too are left out, and counted.

    Args:
        stream: unlabeled text, or problems with solutions.
        feedback: labelled examples.
        evaluation: labelled examples.
        seed: of which examples are kept where a limit is given.

    Raises:
        UserError: a source cannot be read, or every evaluation example is feedback.
    """
    roles: tuple[tuple[Role, Source, int], ...] = (
        ("stream", stream, seed),
        ("feedback", feedback, seed),
        ("eval", evaluation, 0),
    )
    read: dict[str, Loaded] = {
        role: load_examples(s.name, role=role, fields=s.fields, limit=s.limit, seed=n)
        for role, s, n in roles
    }
    seen = {(e.prompt, e.completion) for e in read["feedback"].examples}
    kept = [e for e in read["eval"].examples if (e.prompt, e.completion) not in seen]
    dropped = {role: dict(loaded.dropped) for role, loaded in read.items()}
    if not kept:
        raise UserError(
            f"every evaluation example of {evaluation.name} is among the feedback; give --eval "
            "another file"
        )
    if len(kept) < len(read["eval"].examples):
        dropped["eval"]["also in the feedback"] = len(read["eval"].examples) - len(kept)
    return RawData(read["stream"].examples, read["feedback"].examples, kept, dropped)


def tokenised(
    raw: RawData, tokenizer: PreTrainedTokenizerBase, sequence_length: int, seed: int
) -> LanguageData:
    """Encode everything for one learner.

    Args:
        raw: the examples.
        tokenizer: the learner's.
        sequence_length: T, the most predictions in a sequence.
        seed: of the order in which stream and feedback are read.

    Returns:
        The data, with a summary of counts: sequences, dropped by reason, truncated.

    Raises:
        UserError: nothing usable is left of one of them.
    """
    roles = {"stream": raw.stream, "feedback": raw.feedback, "eval": raw.evaluation}
    encoded: dict[str, EncodedSet] = {
        role: encode_examples(
            examples, tokenizer, sequence_length, role=role, dropped=raw.dropped.get(role)
        )
        for role, examples in roles.items()
    }
    problems = _answerable(raw.evaluation, tokenizer, sequence_length)
    summary = {
        role: {"sequences": len(e), "dropped": dict(e.dropped), "truncated": e.truncated}
        for role, e in encoded.items()
    }
    return LanguageData(
        TokenStream(encoded["stream"], seed),
        TokenStream(encoded["feedback"], seed + 1),
        fixed_batches(encoded["eval"], EVALUATION_BATCH),
        TokenStream(encoded["eval"], seed),
        problems,
        max(len(s.tokens) - s.predict_from for s in encoded["eval"].sequences),
        summary,
    )


def _answerable(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, sequence_length: int
) -> tuple[Example, ...]:
    """Evaluation examples with a prompt that fits and an answer that can be checked."""
    candidates = [e for e in examples if e.answer is not None and e.prompt]
    prompts = prompt_tokens([e.prompt for e in candidates], tokenizer)
    pairs = zip(candidates, prompts, strict=True)
    return tuple(e for e, prompt in pairs if len(prompt) <= sequence_length)
