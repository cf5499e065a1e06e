r"""Reads the answer that a completion or a reference states, and checks the one by the other.

Solutions state their answer after `####`, the convention of GSM8K (Cobbe et al. 2021,
arXiv 2110.14168), or in `\boxed{...}`, that of the MATH data set (Hendrycks et al. 2021,
arXiv 2103.03874). One reader serves completions and references (`stated_answers` says how a stated
answer is understood): a completion is scored by the first answer that it states, whatever it goes
on to write; a worked reference is a text that somebody ended, and counts by its last.

Numbers are compared exactly, units word by word, lists part by part, formulas by `math_verify`.
What cannot be decided is wrong: an answer is never right that differs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vfunc.language.evaluation.equality import same_answer
from vfunc.language.evaluation.stated_answers import Quantity, Words, decorated, read_answer
from vfunc.typecheck import typed

_MARK = re.compile(r"\#{4,}|\\(?:boxed|fbox)(?![A-Za-z])")
_BARE = re.compile(r"\s*(\\frac\s*(?:\{[^{}]*\}|\d)\s*(?:\{[^{}]*\}|\d)|[+-−]?[\d.,]*\d|[A-Za-z])")
COMPLETING = "\n\r}#"
"""Characters one of which completes an answer that nothing after it can change."""

_LONGEST_TITLE = 4  # words of a text answer after ####; longer ones are headings of a document


@typed
def extract_answer(text: str) -> str | None:
    r"""The first answer that a text states, plain.

    After `####` to the end of its line, or in `\boxed{...}` (also `\boxed 5` and `\fbox{...}`). Of
    a number, currency, separators and a unit are taken off where nothing but a unit follows:
    "#### $1,200.50 in all." gives "1200.50", but "#### 3 or 7" gives "3 or 7".

    Args:
        text: a completion.

    Returns:
        The answer as text, never empty, or None where the text states none.
    """
    stated = stated_answer(text)
    return None if stated is None else _plain(stated)


@typed
def stated_answer(text: str) -> str | None:
    """The first answer that a text states, as it is written there; None without one."""
    return next((answer for answer, _, _ in _stated(text)), None)


@typed
def reference_answer(solution: str) -> str | None:
    r"""The answer that a worked solution ends in: the last after `####`, or else in `\boxed{...}`.

    Headings of a document start with `####` too: words after it are an answer only where there is
    one such line, and a short one.

    Returns:
        The answer as it is written, or None where the solution states none that can be read.
    """
    found = list(_stated(solution))
    hashes = [answer for answer, mark, _ in found if mark]
    for answer in reversed(hashes):
        if not isinstance(read_answer(answer), Words):
            return answer
    if len(hashes) == 1 and len(hashes[0].split()) <= _LONGEST_TITLE:
        return hashes[0]
    return next((answer for answer, mark, _ in reversed(found) if not mark), None)


@typed
def has_answered(text: str) -> bool:
    """Whether a text states an answer that nothing written after it can change."""
    return next((final for _, _, final in _stated(text)), False)


@typed
def is_readable(answer: str) -> bool:
    """Whether a reference holds an answer at all, once its decoration is taken off."""
    return bool(_plain(answer))


@typed
def is_correct(completion: str, answer: str) -> bool:
    r"""Whether the first answer that a completion states is the right one.

    Numbers are compared exactly (72 = 72.0, ½ = 0.5; a fraction without end to six decimals).
    Units count where both sides have one: 72 apples is 72, but 5 AM is not 5 PM and 5 m not 5 km.
    Alternatives, lists, intervals and equations are compared part by part, other formulas by
    `math_verify`. An answer that cannot be read, or that would take unbounded time to evaluate, is
    wrong.

    Args:
        completion: the learner's text; its answer is read by `stated_answer`.
        answer: the reference: a bare answer ("72", "€1,200"), or a solution that states one.

    Returns:
        True if the completion states an answer and it is right.
    """
    stated = stated_answer(completion)
    if stated is None:
        return False
    return same_answer(stated, reference_answer(answer) or answer)


def _plain(answer: str) -> str:
    read = read_answer(answer)
    return read.text if isinstance(read, Quantity) and not read.tentative else decorated(answer)


def _stated(text: str) -> Iterator[tuple[str, bool, bool]]:
    """Each answer as written, whether after `####`, and whether it is complete as it stands."""
    at = 0
    while (mark := _MARK.search(text, at)) is not None:
        at = mark.end()
        if text[mark.start()] == "\\":
            boxed, end = _boxed(text, at)
            if boxed is not None and decorated(boxed):
                yield boxed, False, end < len(text) or text[end - 1] == "}"
            at = end
            continue
        line = _line_after(text, at)
        if line is None:
            continue
        start, end = line
        at = end
        answer = text[start:end].strip()
        inner = _boxed_in(answer)
        answer = re.sub(r"(?<!\.)\s*\.$", "", answer) if inner is None else inner
        if decorated(answer):
            yield answer, True, end < len(text)


def _line_after(text: str, at: int) -> tuple[int, int] | None:
    """Where the first line with something in it stands, up to the next `####`."""
    while at < len(text) and text[at].isspace():
        at += 1
    if at == len(text):
        return None
    ends = [found for stop in ("\n", "\r", "####") if (found := text.find(stop, at)) >= 0]
    end = min(ends, default=len(text))
    return None if end == at else (at, end)


def _boxed_in(text: str) -> str | None:
    mark = re.search(r"\\(?:boxed|fbox)(?![A-Za-z])", text)
    return None if mark is None else _boxed(text, mark.end())[0]


def _boxed(text: str, at: int) -> tuple[str | None, int]:
    r"""What a `\boxed` holds whose name ends at a position, and where that ends.

    The braces have to close. Without braces it is the number, fraction or letter that follows.
    """
    opening = re.compile(r"\s*\{").match(text, at)
    if opening is None:
        bare = _BARE.match(text, at)
        return (None, at) if bare is None else (bare[1], bare.end())
    depth = 1
    for position in range(opening.end(), len(text)):
        escaped = text[position - 1] == "\\"
        depth += 0 if escaped else {"{": 1, "}": -1}.get(text[position], 0)
        if depth == 0:
            held = text[opening.end() : position].strip()
            inner = _boxed_in(held)
            return (held if inner is None else inner), position + 1
    return None, at
