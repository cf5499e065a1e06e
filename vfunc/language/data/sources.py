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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.language.data.chat import TRAILING, holds_turns, read_conversation
from vfunc.language.data.chat_format import ChatFormat, plain_chat
from vfunc.language.data.examples import Example
from vfunc.language.data.record_files import Piece
from vfunc.language.data.record_hub import HubData
from vfunc.language.data.record_layouts import WRONG, Split, detect_fields, parse_fields
from vfunc.language.data.records import Records, is_text, require_unicode
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
    read = Examples(name, split, fields, chat)

    # The examples with the `limit` smallest random keys: one pass, memory for those kept only.
    keys = random.Random(seed)
    keyed = ((keys.random(), index, example) for index, example in enumerate(_whole(read)))
    if limit is not None:
        keyed = iter(sorted(heapq.nsmallest(limit, keyed), key=lambda entry: entry[1]))
    kept = tuple(example for _, _, example in keyed)

    if not kept:
        raise UserError(nothing_left(name, read.dropped))
    return Loaded(kept, dict(read.dropped), read.usable, read.written, name, read.of_turns)


def nothing_left(name: str, dropped: Mapping[str, int]) -> str:
    """What to say of a source without a usable example."""
    why = ", ".join(f"{count} with {reason}" for reason, count in dropped.items())
    return f"{name}: no examples" + (f" left, dropped {why}." if why else ": empty.")


def _whole(examples: Iterator[Example]) -> Iterator[Example]:
    """The examples, a text that came in pieces as one."""
    begun: list[str] = []
    for example in examples:
        begun.append(example.completion)
        if example.ends:
            yield example if len(begun) == 1 else replace(example, completion="".join(begun))
            begun = []


class Examples(Iterator[Example]):
    """The examples of a source from a place on, what was dropped, and where the next one begins.

    Attributes:
        usable: examples given so far, since the source's start.
        dropped: numbers of records left out so far, by reason.
        of_turns: whether records are conversations.
        record: the record of the last example.
    """

    def __init__(
        self,
        source: str,
        split: Split,
        fields: str | None = None,
        chat: ChatFormat = plain_chat,
        place: Mapping[str, Any] | None = None,
        opened: HubData | None = None,
    ) -> None:
        """Look at what is asked; nothing is read before the first example is asked for.

        Args:
            source: a path, or a Hub id.
            split: see `load_examples`.
            fields: see there.
            chat: see there.
            place: where to begin, as `place` told; None is the start.
            opened: the data set of the Hub, where it is open.

        Raises:
            UserError: fields that cannot be read, or of a text file.
        """
        self._given = None if fields is None else parse_fields(fields, split)
        if is_text(source):
            if fields is not None:
                raise UserError(
                    f"{source}: a text file is one document and has no fields; drop "
                    f"--{split}-fields."
                )
            self._given = {"text": ("text",)}
        self._source, self._chat = source, chat
        self._split: Split = split
        at = place or {}
        self._records = Records(source, at.get("place"), opened)
        self._used = {name: tuple(columns) for name, columns in at.get("fields", {}).items()}
        self.dropped: Counter[str] = Counter(at.get("dropped", {}))
        self.usable: int = at.get("usable", 0)
        self.of_turns: bool = at.get("of_turns", False)
        self._open: bool = at.get("open", False)
        self.record: Mapping[str, Any] = {}

    def __next__(self) -> Example:
        while True:
            where, self.record = next(self._records)
            record = self.record
            made = self._made(where, record)
            more = isinstance(record, Piece)
            if isinstance(made, str) and (more or self._open):  # empty lines within a text
                made = Example("", record["text"])
            self._open = more
            if isinstance(made, str):
                self.dropped[made] += 1
                continue
            self.usable += not more
            return replace(made, ends=False) if more else made

    def _made(self, where: str, record: Mapping[str, Any]) -> Example | str:
        split = self._split
        self._used = self._used or self._given or detect_fields(where, record, split)
        if self._given is None and WRONG in record:
            self._used |= {WRONG: (WRONG,)}
        columns = _turn_columns(where, record, self._used, split)
        if not columns:
            return _example(where, record, self._used, split)
        self.of_turns = True
        return _of_turns(where, record, self._used, columns, split, self._chat, self.dropped)

    @property
    def place(self) -> dict[str, Any]:
        """Where the next example begins, and all counts until there: plain data, for a file."""
        return {
            "place": self._records.place,
            "fields": {name: list(columns) for name, columns in self._used.items()},
            "dropped": dict(self.dropped),
            "usable": self.usable,
            "of_turns": self.of_turns,
            "open": self._open,
        }

    @property
    def written(self) -> str:
        """The fields that are read, as the option takes them; "" for a text file."""
        used = "" if is_text(self._source) else self._used
        return ",".join(f"{k}={'+'.join(v)}" for k, v in used.items()) if used else ""


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
        at, first = completion.find(kept), last.find(kept)
        to_the_end = wrong[-1][1] > len(last)
        if to_the_end:  # what the template puts behind the answer is its end
            wrong = (*wrong[:-1], (wrong[-1][0], first + len(kept)))
        if at < 0 or wrong[0][0] < first or wrong[-1][1] > first + len(kept):
            raise UserError(
                f"{where}: the chat template changes the answer that {layout[WRONG][0]!r} is of; "
                "give records of a prompt and a completion"
            )
        wrong = tuple((start + at - first, end + at - first) for start, end in wrong)
        if to_the_end:
            wrong = (*wrong[:-1], (wrong[-1][0], len(completion) + 1))
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
