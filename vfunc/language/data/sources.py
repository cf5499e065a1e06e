"""Reads text examples for stream, feedback and evaluation from files and Hub data sets.

A record (see `vfunc.language.data.records`) becomes an `Example` by its fields: a prompt and a
completion, or raw text. An option names the fields, or a known layout does. What cannot be read
is a `UserError` that names the file, the line and the field; what is empty is dropped,
counted and reported.
"""

from __future__ import annotations

import difflib
import heapq
import math
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vfunc.errors import UserError
from vfunc.language.data.examples import Example
from vfunc.language.data.records import is_text, read_records
from vfunc.language.evaluation.answers import is_readable, reference_answer
from vfunc.typecheck import typed

Split = Literal["stream", "feedback", "eval"]
TEXTS = ("prompt", "completion", "text", "answer")
EMPTY = {name: f"empty {name}" for name in ("prompt", "completion", "text")}

# Layouts that are recognised unaided. One whose fields are a proper subset of another match gives
# way to it, so that MBPP's (text, code) is not read as raw text.
KNOWN_LAYOUTS = (
    "prompt=question,completion=answer",  # GSM8K
    "prompt=problem,completion=solution",  # NuminaMath-CoT, MATH
    "prompt=problem,completion=solution,answer=answer",  # NuminaMath-1.5, MATH-500
    "prompt=prompt,completion=completion",
    "prompt=instruction,completion=output",
    "prompt=instruction+input,completion=output",  # Alpaca
    "prompt=instruction,completion=response",
    "prompt=query,completion=response",  # MetaMathQA
    "prompt=Body+Question,completion=Answer,answer=Answer",  # SVAMP
    "prompt=text,completion=code",  # MBPP
    "prompt=prompt,completion=code",  # MBPP, sanitized
    "prompt=prompt,completion=canonical_solution",  # HumanEval
    "text=text",
    "text=content",
)
# For feedback by rewards: an answer that can be checked, and no solution.
ANSWER_LAYOUTS = ("prompt=problem,answer=answer", "prompt=prompt,answer=answer")
# A question with these is multiple choice: its answer is an index, not a completion.
CHOICES = ("choices", "options")


@dataclass(frozen=True)
class Loaded:
    """The examples of a source.

    Attributes:
        examples: the chosen examples, in the order of the source.
        dropped: numbers of records left out, by reason.
        available: number of usable examples in the source, before `limit`.
        fields: the layout read, as the option takes it ("" for a text file, which has none).
        source: the source's name, as passed in.
    """

    examples: tuple[Example, ...]
    dropped: dict[str, int]
    available: int
    fields: str
    source: str


@typed
def load_examples(
    source: str | Path,
    *,
    split: Split,
    fields: str | None = None,
    limit: int | None = None,
    seed: int = 0,
) -> Loaded:
    """Read a file or a Hub data set into examples.

    A text file is one document; long documents are cut when they are tokenised. Fields joined
    by `+` are joined by a space, leaving out empty ones. A prompt that does not end in a newline
    gets one, so that the completion follows naturally. Numbers become text.

    Args:
        source: a path, or a Hub id `ID[:CONFIG[:SPLIT]]` (default split: train).
        split: the split, whose option a message names.
        fields: `prompt=FIELD[+FIELD],completion=FIELD` or `text=FIELD`, and `answer=FIELD` for
            the final answer; feedback by rewards also `prompt=FIELD,answer=FIELD` alone. None
            recognises `KNOWN_LAYOUTS` (and `ANSWER_LAYOUTS`) by the first record.
        limit: number of examples to keep, sampled by `seed`. For one seed, fewer are a subset of
            more.
        seed: seed of the sample.

    Returns:
        The examples, with what was dropped and which fields were read.

    Raises:
        UserError: the source is missing, unreadable, malformed, empty, or of unknown layout.
    """
    name = str(source)
    if limit is not None and limit < 1:
        raise UserError(f"{name}: at least 1 example has to be kept, not {limit}.")
    layout = None if fields is None else parse_fields(fields, split)
    dropped: Counter[str] = Counter()
    if is_text(name):
        if layout is not None:
            raise UserError(
                f"{name}: a text file is one document and has no fields; drop --{split}-fields."
            )
        layout = {"text": ("text",)}
    records = read_records(name)

    usable = 0
    used: dict[str, tuple[str, ...]] = {}

    def examples() -> Iterator[Example]:
        nonlocal usable, used
        for where, record in records:
            used = used or layout or _detect(where, record, split)
            made = _example(where, record, used, split)
            if isinstance(made, str):
                dropped[made] += 1
            else:
                usable += 1
                yield made

    # The examples with the `limit` smallest random keys: one pass, memory for those kept only.
    keys = random.Random(seed)
    keyed = ((keys.random(), index, example) for index, example in enumerate(examples()))
    if limit is not None:
        keyed = iter(sorted(heapq.nsmallest(limit, keyed), key=lambda entry: entry[1]))
    kept = tuple(example for _, _, example in keyed)

    if not kept:
        why = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
        raise UserError(f"{name}: no examples" + (f" left, dropped {why}." if why else ": empty."))
    written = "" if is_text(name) else ",".join(f"{k}={'+'.join(v)}" for k, v in used.items())
    return Loaded(kept, dict(dropped), usable, written, name)


@typed
def parse_fields(fields: str, split: Split) -> dict[str, tuple[str, ...]]:
    """Read `prompt=Body+Question,completion=Answer` into the record fields of each text.

    Args:
        fields: the option's text.
        split: the split, whose option a message names.

    Raises:
        UserError: an unknown or repeated text, or neither raw text nor prompt with completion.
    """
    option = f"--{split}-fields {fields}"
    layout: dict[str, tuple[str, ...]] = {}
    for item in fields.split(","):
        part, equals, names = (piece.strip() for piece in item.partition("="))
        columns = tuple(column.strip() for column in names.split("+"))
        if not equals or not all(columns) or part not in TEXTS:
            raise UserError(
                f"{option}: cannot read {item!r}; write PART=FIELD with PART one of "
                f"{', '.join(TEXTS)}, as in prompt=question,completion=answer or text=text."
            )
        if part in layout:
            raise UserError(f"{option}: {part} is given twice; join fields as {part}=A+B.")
        layout[part] = columns
    answers = split == "feedback" and set(layout) == {"prompt", "answer"}
    if not answers and set(layout) - {"answer"} not in ({"text"}, {"prompt", "completion"}):
        raise UserError(f"{option}: give either text=FIELD, or prompt=FIELD and completion=FIELD.")
    return layout


@typed
def final_answer(completion: str) -> str | None:
    """The answer that a worked solution ends in, by the reader that scores completions.

    Returns:
        The answer as written, without surrounding space, or None if the solution marks none.
    """
    return reference_answer(completion)


def _detect(where: str, record: Mapping[str, Any], split: Split) -> dict[str, tuple[str, ...]]:
    option = f"--{split}-fields"
    has = f"{where}: the record's fields are {', '.join(map(str, record)) or '(none)'}"
    layouts = (*KNOWN_LAYOUTS, *(ANSWER_LAYOUTS if split == "feedback" else ()))
    named = {fields: parse_fields(fields, split) for fields in layouts}
    columns = {fields: set().union(*layout.values()) for fields, layout in named.items()}
    matches = [fields for fields, wanted in columns.items() if wanted <= record.keys()]
    # a solution tells more than its answer
    matches = [a for a in matches if a in KNOWN_LAYOUTS] or matches
    matches = [a for a in matches if not any(columns[a] < columns[b] for b in matches)]
    if any(name in record for name in CHOICES):
        matches = []
    if len(matches) == 1:
        return named[matches[0]]
    if matches:
        raise UserError(f"{has}; choose with {option} one of {' or '.join(matches)}.")
    raise UserError(
        f"{has}, of no known layout; name them with {option} prompt=FIELD,completion=FIELD or "
        f"{option} text=FIELD."
    )


def _example(
    where: str, record: Mapping[str, Any], layout: Mapping[str, tuple[str, ...]], split: Split
) -> Example | str:
    """The record's example, or the reason why it is dropped."""
    texts = {}
    for name, columns in layout.items():
        fields = [_field_text(where, record, column, split) for column in columns]
        texts[name] = " ".join(text for text in fields if text.strip())
        if not texts[name] and name in EMPTY:
            return EMPTY[name]
    answer = texts.get("answer", "").strip()
    answer = answer if answer and is_readable(answer) else None
    if "text" in texts:
        return Example("", texts["text"], answer)
    prompt = texts["prompt"] if texts["prompt"].endswith("\n") else texts["prompt"] + "\n"
    if "completion" not in texts:
        return Example(prompt, "", answer) if answer else "empty answer"
    return Example(prompt, texts["completion"], answer or final_answer(texts["completion"]))


def _field_text(where: str, record: Mapping[str, Any], column: str, split: Split) -> str:
    if column not in record:
        near = difflib.get_close_matches(column, map(str, record), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        has = ", ".join(map(str, record)) or "none"
        raise UserError(
            f"{where}: there is no field {column!r}{hint}; the record's fields are {has}. "
            f"Name the right one with --{split}-fields."
        )
    value = record[column]
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else value
    elif isinstance(value, bool | float) or not isinstance(value, int | str):
        raise UserError(
            f"{where}, field {column!r}: expected text or a number, got {type(value).__name__} "
            f"{str(value)[:40]}; name a text field with --{split}-fields."
        )
    text = str(value)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        reason = f"not valid Unicode ({error.reason})"
        raise UserError(f"{where}, field {column!r}: {reason}.") from error
    return text
