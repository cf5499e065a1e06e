"""Reads text examples for stream, feedback and evaluation from files and Hub data sets.

A record (see `vfunc.language.data.records`) becomes an `Example` by its fields: a prompt and a
completion, raw text, or a conversation (see `vfunc.language.data.chat`), of which the last
assistant turn is the completion and what is before it the prompt. An option names the fields, or a
known layout does. What cannot be read is a `UserError` that names the file, the line and the field;
what is empty is dropped, counted and reported.
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
from typing import Any

from vfunc.errors import UserError
from vfunc.language.data.chat import TRAILING, holds_turns, read_conversation
from vfunc.language.data.chat_format import ChatFormat, plain_chat
from vfunc.language.data.examples import Example
from vfunc.language.data.record_layouts import WRONG, Split, detect_fields, parse_fields
from vfunc.language.data.records import is_text, read_records, require_unicode
from vfunc.language.data.wrong_spans import Spans, read_spans
from vfunc.language.evaluation.answers import is_readable, reference_answer
from vfunc.typecheck import typed

EMPTY = {name: f"empty {name}" for name in ("prompt", "completion", "text")}


@dataclass(frozen=True)
class Loaded:
    """The examples of a source.

    Attributes:
        examples: the chosen examples, in the order of the source.
        dropped: numbers of records left out, by reason.
        available: number of usable examples in the source, before `limit`.
        fields: the layout read, as the option takes it ("" for a text file, which has none).
        source: the source's name, as passed in.
        chat: whether the records are conversations.
    """

    examples: tuple[Example, ...]
    dropped: dict[str, int]
    available: int
    fields: str
    source: str
    chat: bool = False


@typed
def load_examples(
    source: str | Path,
    *,
    split: Split,
    fields: str | None = None,
    limit: int | None = None,
    seed: int = 0,
    chat: ChatFormat = plain_chat,
) -> Loaded:
    """Read a file or a Hub data set into examples.

    A text file is one document; long documents are cut when they are tokenised. Fields joined
    by `+` are joined by a space, leaving out empty ones. A prompt that does not end in a newline
    gets one, so that the completion follows naturally. Numbers become text.

    Args:
        source: a path, or a Hub id `ID[:CONFIG[:SPLIT]]` (default split: train).
        split: the split, whose option a message names.
        fields: `prompt=FIELD[+FIELD],completion=FIELD`, `text=FIELD` or `messages=FIELD`, and
            `answer=FIELD` for the final answer, `wrong=FIELD` for spans of the completion (or raw
            text, or last answer) that are known to be mistaken; feedback by rewards also
            `prompt=FIELD,answer=FIELD` alone. A prompt may be a list of turns, too. None recognises
            `KNOWN_LAYOUTS`, `CHAT_LAYOUTS` (and `ANSWER_LAYOUTS`) by the first record, and a field
            `wrong` beside them.
        limit: number of examples to keep, sampled by `seed`. For one seed, fewer are a subset of
            more.
        seed: seed of the sample.
        chat: how conversations are written.

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
    of_turns = False

    def examples() -> Iterator[Example]:
        nonlocal usable, used, of_turns
        for where, record in records:
            used = used or layout or detect_fields(where, record, split)
            if layout is None and WRONG in record:
                used |= {WRONG: (WRONG,)}
            columns = _turn_columns(where, record, used, split)
            if columns:
                of_turns = True
                made = _of_turns(where, record, used, columns, split, chat, dropped)
            else:
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
    return Loaded(kept, dict(dropped), usable, written, name, of_turns)


@typed
def final_answer(completion: str) -> str | None:
    """The answer that a worked solution ends in, by the reader that scores completions.

    Returns:
        The answer as written, without surrounding space, or None if the solution marks none.
    """
    return reference_answer(completion)


def _example(
    where: str, record: Mapping[str, Any], layout: Mapping[str, tuple[str, ...]], split: Split
) -> Example | str:
    """The record's example, or the reason why it is dropped."""
    texts: dict[str, str] = {}
    for name, columns in layout.items():
        if name == WRONG:
            continue
        fields = [_field_text(where, record, column, split) for column in columns]
        texts[name] = " ".join(text for text in fields if text.strip())
        if not texts[name] and name in EMPTY:
            return EMPTY[name]
    answer = texts.get("answer", "").strip()
    answer = answer if answer and is_readable(answer) else None
    if "text" in texts:
        wrong = _wrong(where, record, layout, split, texts["text"])
        return Example("", texts["text"], answer, wrong)
    prompt = texts["prompt"] if texts["prompt"].endswith("\n") else texts["prompt"] + "\n"
    if "completion" not in texts:
        return Example(prompt, "", answer) if answer else "empty answer"
    completion = texts["completion"]
    wrong = _wrong(where, record, layout, split, completion)
    return Example(prompt, completion, answer or final_answer(completion), wrong)


def _wrong(
    where: str,
    record: Mapping[str, Any],
    layout: Mapping[str, tuple[str, ...]],
    split: Split,
    text: str,
) -> Spans:
    """The spans of a text that its record tells are mistaken."""
    if WRONG not in layout:
        return ()
    (column,) = layout[WRONG]
    if column not in record and column == WRONG:
        return ()  # records without mistakes may lack it
    _require_field(where, record, column, split)
    remedy = f"or name the fields to read with --{split}-fields, without {WRONG}="
    return read_spans(f"{where}, field {column!r}", record[column], text, remedy=remedy)


def _turn_columns(
    where: str, record: Mapping[str, Any], layout: Mapping[str, tuple[str, ...]], split: Split
) -> tuple[str, ...]:
    """The fields whose turns are the conversation; none where the record is none."""
    if "messages" in layout:
        for column in layout["messages"]:
            _require_field(where, record, column, split)
        return layout["messages"]
    columns = (*layout.get("prompt", ()), *layout.get("completion", ()))
    one_each = all(len(layout[part]) == 1 for part in ("prompt", "completion") if part in layout)
    if not (columns and one_each and holds_turns(record.get(columns[0]))):
        return ()
    for column in columns:
        _require_field(where, record, column, split)
    return columns


def _of_turns(
    where: str,
    record: Mapping[str, Any],
    layout: Mapping[str, tuple[str, ...]],
    columns: tuple[str, ...],
    split: Split,
    chat: ChatFormat,
    dropped: Counter[str],
) -> Example | str:
    """The conversation's example, or the reason why it is dropped."""
    answered = "messages" in layout or "completion" in layout
    conversation = read_conversation(where, record, columns, answered=answered)
    if isinstance(conversation, str):
        return conversation
    if not any(turn.text.strip() for turn in conversation.before):
        return EMPTY["prompt"]
    last = "" if conversation.answer is None else conversation.answer.text
    if answered and not last.strip():
        return EMPTY["completion"]
    columns = layout.get("answer", ())
    answer = " ".join(_field_text(where, record, column, split) for column in columns).strip()
    answer = answer if answer and is_readable(answer) else None
    if not answered and answer is None:
        return "empty answer"
    made = chat(conversation)
    if isinstance(made, str):
        return made
    if conversation.trailing:
        dropped[TRAILING] += 1
    prompt, completion = made
    wrong = _wrong(where, record, layout, split, last)
    if wrong:
        # a template may trim the answer, and put something before it
        kept = last.strip()
        at = completion.find(kept)
        if at < 0 or wrong[0][0] < last.find(kept) or wrong[-1][1] > last.find(kept) + len(kept):
            raise UserError(
                f"{where}: the chat template changes the answer that {layout[WRONG][0]!r} is of; "
                "give records of a prompt and a completion"
            )
        shift = at - last.find(kept)
        wrong = tuple((start + shift, end + shift) for start, end in wrong)
    return Example(prompt, completion, answer or final_answer(last), wrong)


def _require_field(where: str, record: Mapping[str, Any], column: str, split: Split) -> None:
    if column not in record:
        near = difflib.get_close_matches(column, map(str, record), n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        has = ", ".join(map(str, record)) or "none"
        raise UserError(
            f"{where}: there is no field {column!r}{hint}; the record's fields are {has}. "
            f"Name the right one with --{split}-fields."
        )


def _field_text(where: str, record: Mapping[str, Any], column: str, split: Split) -> str:
    _require_field(where, record, column, split)
    value = record[column]
    if value is None:
        return ""
    if isinstance(value, float) and math.isfinite(value):
        value = int(value) if value.is_integer() else value
    elif isinstance(value, bool | float) or not isinstance(value, int | str):
        raise UserError(
            f"{where}, field {column!r}: expected text or a number, got {type(value).__name__} "
            f"{str(value)[:40]}; name a text field with --{split}-fields, or a chat's by messages=."
        )
    text = str(value)
    require_unicode(f"{where}, field {column!r}", text)
    return text
