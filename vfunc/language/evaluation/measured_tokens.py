r"""Patterns of text whose tokens are measured apart: `results`, or any regular expression.

A pattern is looked for in each held-out completion, as it is before it is cut into tokens; what its
group 1 covers (all of the match, where it has no group) is measured: the loss of these tokens and
how often the likeliest token is the right one.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import regex  # the same language as re's, with a limit of time

from vfunc.errors import UserError
from vfunc.typecheck import typed

RESULTS = (
    r"(?:=|\#{4}|\\boxed\s*\{)[ \t]*[$£€]?"
    r"((?>[-−]?[$£€]?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+))%?)"
    r"(?![ \t]*[-+*/×÷–−x][ \t]*[$£€(]?[\d.])"
)
"""Numbers after an equals sign, unless a calculation goes on there, and the final answer."""
BUILT_IN = {"results": RESULTS}
SECONDS = 20.0
"""Time that a pattern may take over all held-out texts: a thousand solutions take a hundredth."""
UNNAMED = "tokens"

_NAMED = re.compile(r"([A-Za-z]\w*)=(.*)", re.DOTALL)
_NAME = re.compile(r"[a-z][a-z0-9_]{0,23}")
_TAKEN = ("_examples", "_tokens", "_standard_error", "_left_out")  # other keys of metrics.json


@dataclass(frozen=True)
class TokenPattern:
    """A pattern, and what its metrics are called by.

    Attributes:
        name: `loss_NAME` and `accuracy_NAME` are its metrics.
        pattern: the regular expression.
    """

    name: str
    pattern: str


@typed
def read_patterns(
    asked: Sequence[str], where: str = "--measure-tokens"
) -> tuple[TokenPattern, ...]:
    """Read `results`, `NAME=REGEX` or `REGEX`, each.

    A pattern without a name is called `tokens`, the second one `tokens_2`, and so on.

    Args:
        asked: what was given.
        where: the option, for messages.

    Raises:
        UserError: one that does not compile, a name that cannot be one, or that is given twice.
    """
    found: list[TokenPattern] = []
    unnamed = 0
    for said in asked:
        named = _NAMED.fullmatch(said)
        if said in BUILT_IN:
            name, pattern = said, BUILT_IN[said]
        elif named is not None:
            name, pattern = named.groups()
            if not _NAME.fullmatch(name) or f"_{name}".endswith(_TAKEN):
                raise UserError(
                    f"{where} {said}: {name} cannot be a name; take at most 24 small letters, "
                    f"digits and _, that do not end in {' or '.join(w[1:] for w in _TAKEN)}"
                )
        else:
            unnamed += 1
            name, pattern = UNNAMED + (f"_{unnamed}" if unnamed > 1 else ""), said
        if not pattern:
            raise UserError(f"{where} {said or repr(said)}: there is no pattern")
        _compiled(pattern, where)
        if any(name == one.name for one in found):
            raise UserError(f"{where} names {name} twice; give NAME=REGEX with names of your own")
        found.append(TokenPattern(name, pattern))
    if not found:
        raise UserError(f"{where} wants results, NAME=REGEX or REGEX to follow it")
    return tuple(found)


@typed
def check_patterns(asked: Sequence[str] | None, where: str) -> None:
    """Refuse what `read_patterns` refuses."""
    if asked is not None:
        read_patterns(asked, where)


@typed
def pattern_spans(
    pattern: TokenPattern, texts: Sequence[str], *, seconds: float | int = SECONDS
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """What of each text a pattern covers, as half-open spans of characters.

    Args:
        pattern: the pattern.
        texts: the texts.
        seconds: time that it may take over all of them.

    Raises:
        UserError: it takes longer.
    """
    compiled = _compiled(pattern.pattern, "--measure-tokens")
    group = 1 if compiled.groups else 0
    deadline = time.monotonic() + seconds
    found: list[tuple[tuple[int, int], ...]] = []
    try:
        for text in texts:
            left = max(deadline - time.monotonic(), 1e-3)
            matches = compiled.finditer(text, timeout=left)
            spans = (match.span(group) for match in matches)
            found.append(tuple((start, end) for start, end in spans if 0 <= start < end))
    except TimeoutError:
        raise UserError(
            f"--measure-tokens {pattern.pattern}: takes more than {seconds:g} s over the held-out "
            "texts; repetitions within repetitions, as in (a+)+, take for ever: write it without"
        ) from None
    return tuple(found)


def _compiled(pattern: str, where: str) -> regex.Pattern[str]:
    try:
        return regex.compile(pattern)
    except (regex.error, RecursionError, OverflowError, MemoryError) as error:
        raise UserError(f"{where} {pattern}: is no regular expression ({error})") from error
