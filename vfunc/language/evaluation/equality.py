"""Decides whether two stated answers are the same, and says no where it cannot tell."""

from __future__ import annotations

import functools
import logging
import math
import re
from fractions import Fraction
from typing import Any

from latex2sympy2_extended import NormalizationConfig, latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig
from math_verify import verify
from math_verify.grader import should_treat_as_complex

from vfunc.language.evaluation.bounded_calls import TooManyCalls, bounded_calls
from vfunc.language.evaluation.decoration import decorated
from vfunc.language.evaluation.stated_answers import (
    Answer,
    Clock,
    Formula,
    Listing,
    Named,
    Quantity,
    Words,
    read_answer,
)

# All of a text is a formula or none of it. The library's own search takes the last number of what
# it cannot read (6 of `5 @ 6`), the last side of an equation, and letters off the end as units (3t
# for 3).
_NORMAL = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none"
)
_CASES = ConversionConfig(lowercase_symbols=False)
# Symbolic comparison evaluates what it reads, and a learner can write 9^{9^{9^9}}. A time limit
# would make a score depend on the machine, so such expressions are recognised and never evaluated.
_LONGEST_EXPRESSION = 200
_EXPLOSIVE = re.compile(
    r"\^\s*\{[^}]*[\^!]|\^\s*(?:\{[^{}]*\}|\S)\s*\^|\^\s*\(|\*\*"  # a power of a power
    r"|\^\s*\{?[^}+\-]*\d{4}"  # an exponent of more than three digits
    r"|\d{4,}\s*!|[!)}]\s*!"  # the factorial of a large number, or of an expression
    r"|binom.*\d{4}"
)
# What math_verify reads past, so that it takes 5' for 5, 12_5 for 12_7, x -> 5 for 5, a date for a
# difference, and 5-7 for -2 where these are dollars.
_LOST = re.compile(
    r"['?:#@%°$€£¥]|\.\.\.|…|(?<=\d)\s*_|\d\s+\d|-0\d|\d/\d+/\d|\.\d+\.|(?<![\d.])0[xX]"
    r"|\\frac\s*\{\s*(?:d|\\partial)\s*\w*\s*\}\s*\{\s*(?:d\s*[A-Za-z]|\\partial)"  # is 0
    r"|\\(?:to|approx|sim|simeq|cong|equiv|[lcdv]?dots|mod|pmod|bmod|prime|hat|tilde|vec|overline|bar"
    r"|angle|triangle|text|rightarrow|mapsto|in|notin)(?![A-Za-z])"
)
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|lt|gt|ne|neq)(?![A-Za-z])")
_LARGEST_POWER = 10_000  # of powers of powers
_DECIMALS = 6
_MOST_CALLS = 3_000_000  # a few seconds; what people answer takes some 100,000


def _is_news(record: logging.LogRecord) -> bool:
    """Drop the library's notice that its timeouts are off, as they are on purpose."""
    return not record.getMessage().startswith("Timeout is disabled")


for _module in ("math_verify.parser", "math_verify.grader"):
    logging.getLogger(_module).addFilter(_is_news)


def same_answer(stated: str, reference: str) -> bool:
    """Whether two answers, as they are written, are the same.

    Args:
        stated: of a completion.
        reference: the right one.
    """
    if not decorated(stated) or not decorated(reference):
        return False
    return _same(read_answer(stated), read_answer(reference))


def _same(ours: Answer, theirs: Answer) -> bool:
    if isinstance(ours, Named) or isinstance(theirs, Named):
        return _same_named(ours, theirs)
    if isinstance(ours, Clock) or isinstance(theirs, Clock):
        return _same_time(ours, theirs)
    if isinstance(ours, Listing) or isinstance(theirs, Listing):
        if not (isinstance(ours, Listing) and isinstance(theirs, Listing)):
            return False
        return _same_list(ours, theirs)
    if isinstance(ours, Words) or isinstance(theirs, Words):
        both = isinstance(ours, Words) and isinstance(theirs, Words)
        return both and _folded(ours.text) == _folded(theirs.text)
    if isinstance(ours, Quantity) and isinstance(theirs, Quantity):
        return _same_quantity(ours, theirs)
    return _same_formula(_formula(ours), _formula(theirs))


def _same_named(ours: Answer, theirs: Answer) -> bool:
    if isinstance(ours, Named) and isinstance(theirs, Named):
        return ours.name == theirs.name and _same(ours.answer, theirs.answer)
    if isinstance(ours, Named):
        return _same(ours.answer, theirs)
    assert isinstance(theirs, Named)
    return _same(ours, theirs.answer)


def _same_time(ours: Answer, theirs: Answer) -> bool:
    if isinstance(ours, Clock) and isinstance(theirs, Clock):
        halves = {ours.half, theirs.half} - {""}
        return ours.time == theirs.time and len(halves) < 2
    clock, other = (ours, theirs) if isinstance(ours, Clock) else (theirs, ours)
    assert isinstance(clock, Clock)
    bare = isinstance(other, Quantity) and not other.unit and other.value == clock.time[0]
    return bare and bool(clock.half) and not any(clock.time[1:])


def _same_list(ours: Listing, theirs: Listing) -> bool:
    """Part by part; without brackets, or in braces, in any order."""
    joints = {ours.joint, theirs.joint} - {""}
    if len(ours.parts) != len(theirs.parts) or len(joints) > 1:
        return False
    if ours.joint == "units" or theirs.joint == "units":
        pairs = zip(ours.parts, theirs.parts, strict=True)
        return ours.joint == theirs.joint and all(_same(a, b) for a, b in pairs)
    sets = {"", "{}"}
    if ours.brackets != theirs.brackets and not {ours.brackets, theirs.brackets} <= sets:
        return False
    if ours.brackets not in sets:
        return all(_same(a, b) for a, b in zip(ours.parts, theirs.parts, strict=True))
    left = list(theirs.parts)
    for part in ours.parts:
        found = next((n for n, other in enumerate(left) if _same(part, other)), None)
        if found is None:
            return False
        del left[found]
    return True


def _same_quantity(ours: Quantity, theirs: Quantity) -> bool:
    if ours.tentative or theirs.tentative:
        # one letter is a unit if the other side says so, and a variable if it has none
        return ours.value == theirs.value and ours.unit == theirs.unit
    if ours.unit and theirs.unit and sorted(ours.unit) != sorted(theirs.unit):
        return False
    if ours.value == theirs.value:
        return True
    if (ours.decimals is None) == (theirs.decimals is None):
        return False
    fraction, decimal = (ours, theirs) if ours.decimals is None else (theirs, ours)
    return (
        (decimal.decimals or 0) >= _DECIMALS
        and _endless(fraction.value)
        and (round(fraction.value, _DECIMALS) == round(decimal.value, _DECIMALS))
    )


def _endless(value: Fraction) -> bool:
    rest = value.denominator
    for prime in (2, 5):
        while rest % prime == 0:
            rest //= prime
    return rest > 1


def _folded(text: str) -> str:
    return re.sub(r"[\s\"]+", " ", text).strip().casefold()


def _formula(answer: Answer) -> str | None:
    """For `math_verify`; None for what it would read as less than it is."""
    if isinstance(answer, Formula):
        text = re.sub(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])", _joined, answer.text)
        return re.sub(r"\^\s*(-?\d+)", r"^{\1}", text)  # 10^12 is no 10^1 2
    assert isinstance(answer, Quantity)
    if answer.unit:
        return None
    if answer.decimals is None or "e" in answer.text.lower():
        sign = "-" if answer.value < 0 else ""
        return f"{sign}\\frac{{{abs(answer.value.numerator)}}}{{{answer.value.denominator}}}"
    return answer.text


def _explodes(text: str) -> bool:
    """Whether one operation on what a text says may take forever, where no call can be counted."""
    if _EXPLOSIVE.search(text):
        return True
    exponents = [int(n) for n in re.findall(r"\^\s*\{?\s*-?(\d+)", text)]
    return bool(re.search(r"[)}\]|]\s*\^", text)) and math.prod(exponents) > _LARGEST_POWER


def _joined(grouped: re.Match[str]) -> str:
    return grouped[0].replace(",", "")


def _same_formula(stated: str | None, reference: str | None) -> bool:
    if stated is None or reference is None:
        return False
    if _tight(stated) == _tight(reference):
        return True
    if bool(_RELATION.search(stated)) != bool(_RELATION.search(reference)):
        return False
    for expression in (stated, reference):
        long = len(expression) > _LONGEST_EXPRESSION
        if long or _explodes(expression) or _LOST.search(expression):
            return False
    ours, theirs = _letters(stated), _letters(reference)
    if ours != theirs and {c.lower() for c in ours} == {c.lower() for c in theirs}:
        return False  # the parser takes E for e
    # math_verify's own time limits are signals, which work in the main thread alone, and clocks
    try:
        _imported()
        with bounded_calls(_MOST_CALLS):
            target, gold = _parsed(stated), _parsed(reference)
            return bool(verify(gold, target, timeout_seconds=None))
    except TooManyCalls:
        return False
    except Exception:  # any text at all reaches the parser, and its errors are of every kind
        return False


@functools.cache
def _imported() -> bool:
    """Have all that the first comparison imports and caches, which is no work of an answer's."""
    return bool(verify(_parsed("x^2+2x+1"), _parsed("(x+1)^2"), timeout_seconds=None))


def _parsed(text: str) -> Any:
    return latex2sympy(
        text,
        is_real=not should_treat_as_complex(text),
        normalization_config=_NORMAL,
        conversion_config=_CASES,
    )


def _letters(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z]", re.sub(r"\\[A-Za-z]+", "", text)))


def _tight(text: str) -> str:
    return re.sub(r"(?<!\w)\s+|\s+(?!\w)", "", text)
