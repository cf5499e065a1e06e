"""Layouts of text records: which fields are prompt, completion, text, conversation and answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from vfunc.errors import UserError
from vfunc.typecheck import typed

Split = Literal["stream", "feedback", "eval"]
WRONG = "wrong"
"""The field of a record that holds the spans of its completion, or raw text, that are mistaken."""
TEXTS = ("prompt", "completion", "text", "messages", "answer", WRONG)

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
# Read where none of the above fits: many chat data sets have the same as prompt and completion.
CHAT_LAYOUTS = tuple(
    f"messages={field}{answer}"
    for field in ("messages", "conversations", "conversation")
    for answer in ("", ",answer=answer")
)
# For feedback by rewards: an answer that can be checked, and no solution.
ANSWER_LAYOUTS = ("prompt=problem,answer=answer", "prompt=prompt,answer=answer")
# A question with these is multiple choice: its answer is an index, not a completion.
CHOICES = ("choices", "options")


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
        if part in ("messages", WRONG) and len(columns) > 1:
            raise UserError(f"{option}: {part} is of one field; name one.")
        if part in layout:
            raise UserError(f"{option}: {part} is given twice; join fields as {part}=A+B.")
        layout[part] = columns
    answers = split == "feedback" and set(layout) == {"prompt", "answer"}
    read = ({"text"}, {"messages"}, {"prompt", "completion"})
    if not answers and set(layout) - {"answer", WRONG} not in read:
        raise UserError(
            f"{option}: give either text=FIELD, messages=FIELD, or prompt=FIELD and "
            "completion=FIELD."
        )
    return layout


@typed
def detect_fields(
    where: str, record: Mapping[str, Any], split: Split
) -> dict[str, tuple[str, ...]]:
    """The known layout that a record is of.

    Args:
        where: the record's place, for messages.
        record: the record.
        split: the split, whose option a message names.

    Raises:
        UserError: none fits, or several do.
    """
    option = f"--{split}-fields"
    has = f"{where}: the record's fields are {', '.join(map(str, record)) or '(none)'}"
    kinds = (KNOWN_LAYOUTS, CHAT_LAYOUTS, ANSWER_LAYOUTS if split == "feedback" else ())
    layouts = [fields for kind in kinds for fields in kind]
    named = {fields: parse_fields(fields, split) for fields in layouts}
    columns = {fields: set().union(*layout.values()) for fields, layout in named.items()}
    matches = [fields for fields, wanted in columns.items() if wanted <= record.keys()]
    # a solution tells more than its answer
    kind = next((kind for kind in kinds if any(a in kind for a in matches)), ())
    matches = [a for a in matches if a in kind]
    matches = [a for a in matches if not any(columns[a] < columns[b] for b in matches)]
    if any(name in record for name in CHOICES):
        matches = []
    if len(matches) == 1:
        return named[matches[0]]
    if matches:
        raise UserError(f"{has}; choose with {option} one of {' or '.join(matches)}.")
    raise UserError(
        f"{has}, of no known layout; name them with {option} prompt=FIELD,completion=FIELD, "
        f"{option} messages=FIELD or {option} text=FIELD."
    )
