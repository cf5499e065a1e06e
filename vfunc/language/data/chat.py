"""Reads conversations: a list of turns, as chat data sets hold one in a field of each record.

A turn is `{"role": ..., "content": ...}`, or ShareGPT's `{"from": ..., "value": ...}`; its text
is a string or a list of parts, which are joined as they stand. The list may be written as text, as
CSV has it. What is malformed is a `UserError` that names the record and the message; what is sound
but of no use here is a reason to drop the record.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vfunc.errors import UserError
from vfunc.language.data.records import require_unicode
from vfunc.typecheck import typed

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model", "function_call"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation", "function_response"), "tool"),
}
"""Roles as data sets name them, and what they are called here."""
TEXT_PARTS = ("text", "input_text", "output_text")
"""Types of parts of a content that are read; the others are pictures, sound, files and calls."""

_WRITTEN = re.compile(r"""\s*\[\s*\{\s*['"](role|from|content|value)['"]\s*:""")

NO_MESSAGES = "no messages"
NO_USER = "no user turn before the assistant's"
NO_ASSISTANT = "no assistant turn"
NOT_TEXT = "messages that are not text alone"
TOOL_CALLS = "tool calls in its messages"
TRAILING = "turns after the last answer, of examples that are used"


@dataclass(frozen=True)
class Turn:
    """One message: whose it is (system, user, assistant or tool), and its text."""

    role: str
    text: str


@dataclass(frozen=True)
class Conversation:
    """A conversation up to its last answer.

    Attributes:
        before: the turns before it: the prompt.
        answer: the last assistant turn: the completion. None where only a prompt is given.
        trailing: whether turns after it were left out.
    """

    before: tuple[Turn, ...]
    answer: Turn | None
    trailing: bool = False


@typed
def read_conversation(
    where: str, record: Mapping[str, Any], columns: Sequence[str], *, answered: bool = True
) -> Conversation | str:
    """The conversation that one or more fields of a record hold, one after another.

    A text in the field `system` opens it, unless its own first turn does.

    Args:
        where: the record's place, for messages.
        record: the record.
        columns: fields that hold turns; one that holds plain text besides the first is the
            assistant's turn.
        answered: whether the last assistant turn is the completion; otherwise every turn is of
            the prompt.

    Returns:
        The conversation, or the reason why the record is dropped.

    Raises:
        UserError: what a field holds is no list of turns, or a role is unknown.
    """
    turns: list[Turn] = []
    reasons: list[str] = []
    for number, column in enumerate(columns):
        value = record[column]
        if number and isinstance(value, str) and not holds_turns(value):
            turns.append(Turn("assistant", value))
            continue
        found, why = _turns(f"{where}, field {column!r}", value)
        turns += found
        reasons += why
    if any(record.get(column) not in (None, [], "") for column in ("image", "images")):
        reasons.append(NOT_TEXT)
    if reasons:
        return reasons[0]
    if not turns:
        return NO_MESSAGES
    system = record.get("system")
    if isinstance(system, str) and system.strip() and turns[0].role != "system":
        require_unicode(f"{where}, field 'system'", system)
        turns.insert(0, Turn("system", system))
    if not answered:
        return Conversation(tuple(turns), None)
    last = max((n for n, turn in enumerate(turns) if turn.role == "assistant"), default=None)
    if last is None:
        return NO_ASSISTANT
    before = tuple(turns[:last])
    if not any(turn.role in ("user", "tool") for turn in before):
        return NO_USER
    return Conversation(before, turns[last], trailing=last < len(turns) - 1)


@typed
def holds_turns(value: Any) -> bool:
    """Whether a field's value is a list of turns rather than a text: by its type, or its start."""
    if isinstance(value, str):
        return _WRITTEN.match(value) is not None
    return isinstance(value, Sequence | Mapping) and not isinstance(value, bytes)


def _turns(where: str, value: Any) -> tuple[list[Turn], list[str]]:
    """The turns, and reasons why the record cannot be used."""
    if isinstance(value, str):
        value = _parsed(where, value)
    if value is None:
        return [], []
    if isinstance(value, Mapping):
        value = _rows(where, value)
    if not isinstance(value, Sequence):
        raise UserError(
            f"{where}: expected a list of messages, got {type(value).__name__} {str(value)[:40]}."
        )
    turns: list[Turn] = []
    reasons: list[str] = []
    for number, message in enumerate(value, start=1):
        made = _turn(f"{where}, message {number}", message)
        if isinstance(made, str):
            reasons.append(made)
        else:
            turns.append(made)
    return turns, reasons


def _parsed(where: str, text: str) -> Any:
    """The list that a text writes, as JSON or as Python does."""
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        raise UserError(
            f"{where}: expected a list of messages, got the text {text[:40]!r}; write it as JSON."
        ) from error


def _rows(where: str, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Messages of a field that holds a list a key, as tables do."""
    lists = {key: value for key, value in columns.items() if value is not None}
    sizes = {len(value) if isinstance(value, list) else -1 for value in lists.values()}
    if len(sizes) > 1 or -1 in sizes:
        raise UserError(f"{where}: expected a list of messages, not {str(columns)[:40]}.")
    count = next(iter(sizes), 0)
    return [{key: value[row] for key, value in lists.items()} for row in range(count)]


def _turn(where: str, message: Any) -> Turn | str:
    if not isinstance(message, Mapping):
        raise UserError(
            f"{where}: expected a role and content, got {type(message).__name__} "
            f"{str(message)[:40]!r}."
        )
    role, content = (_either(message, *keys) for keys in (("role", "from"), ("content", "value")))
    if not isinstance(role, str):
        has = ", ".join(map(str, message)) or "none"
        raise UserError(f"{where}: there is no role (or from); the message's fields are {has}.")
    known = ROLES.get(role.strip().lower())
    if known is None:
        raise UserError(f"{where}: unknown role {role[:40]!r}; known are {', '.join(ROLES)}.")
    if message.get("tool_calls") or message.get("function_call") or role == "function_call":
        return TOOL_CALLS
    if content is None and not {"content", "value"} & message.keys():
        has = ", ".join(map(str, message))
        raise UserError(f"{where}: there is no content (or value); the message's fields are {has}.")
    text = _text(where, content)
    if text is None:
        return NOT_TEXT
    require_unicode(where, text)
    return Turn(known, text)


def _either(message: Mapping[str, Any], first: str, second: str) -> Any:
    value = message.get(first)
    return message.get(second) if value is None else value


def _text(where: str, content: Any) -> str | None:
    """The text of a message; None where it has parts that are something else."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise UserError(
            f"{where}: expected text or a list of parts, got {type(content).__name__} "
            f"{str(content)[:40]}."
        )
    texts: list[str] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
            continue
        kind = part.get("type") if isinstance(part, Mapping) else None
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(kind, str) and kind not in TEXT_PARTS:
            return None
        if not isinstance(text, str):
            raise UserError(f"{where}: cannot read the part {str(part)[:60]} of its content.")
        texts.append(text)
    return "".join(texts)
