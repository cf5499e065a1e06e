r"""Reads a stated answer: a quantity, a time, a list of answers, words, or a formula.

Decoration goes first (`decorated`): bold, mathematics' dollars, LaTeX spaces, signs of other
alphabets. A number then has a unit only if everything that follows it is one: words without digits,
operators or conjunctions, or a known symbol. Everything else stays as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from vfunc.language.evaluation.decoration import decorated, split_list, strip_group
from vfunc.language.evaluation.units import CURRENCY_CODES, SYMBOLS, UNIT_OF_LETTER, unit_words

__all__ = ["Clock", "Formula", "Listing", "Named", "Quantity", "Words", "decorated", "read_answer"]

_GROUPED = r"\d{1,3}(?:,\d{3})+(?!\d)|\d{1,3}(?:[ '’]\d{3})+(?!\d)|\d+"
_DECIMAL = rf"(?:(?:{_GROUPED})(?:\.(?!\s*[A-Za-z])\d*)?|\.\d+)(?:[eE][+-]?\d{{1,3}}(?![\d.]))?"
_FRACTION = (
    r"\\frac\s*(?:\{\s*(\d+)\s*\}|(\d))\s*(?:\{\s*(\d+)\s*\}|(\d))|(\d+)\s*/\s*(\d+)(?![\d.])"
)
_NUMBER = re.compile(rf"(?:(?P<whole>\d+)\s*(?:(?<=\d)\s+(?=\d)|(?=\\)))?(?:{_FRACTION})")
_PLAIN = re.compile(_DECIMAL)
_POWER_OF_TEN = re.compile(
    r"\s*\\(?:times|cdot)\s*10\s*\^\s*(?:\{\s*([+-]?\d{1,3})\s*\}|([+-]?\d{1,3})(?!\d))"
)
_SIGNS = "".join(sorted(re.escape(sign) for sign in SYMBOLS))
_CURRENCY = rf"(?:(?:US|CA|AU|C|A)?\\?[{_SIGNS}]|(?:{'|'.join(CURRENCY_CODES)})\b\.?)"
_HEAD = re.compile(rf"(?P<sign>[+-]?)\s*(?P<currency>{_CURRENCY})?\s*(?P<inner>[+-]?)\s*", re.I)
_SCALE = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
    "dozen": 12,
}
_CLOCK = re.compile(
    r"(\d{1,2})(?:\s*:\s*(\d{2}))?(?:\s*:\s*(\d{2}))?\s*(?:([ap])\.?\s?m\.?)?(?:\s+o'clock)?", re.I
)
_FUNCTIONS = re.compile(
    r"arcsin|arccos|arctan|sinh|cosh|tanh|sin|cos|tan|cot|sec|csc|log|ln|exp|sqrt|frac|cdot|times|pi|"
    r"theta|alpha|beta|gamma|lambda|infty|inf|det|gcd|lcm|max|min|lim"
)
_SMALL_WORDS = re.compile("am|pm|to|of|is|no|or|in|at|by|it|we|he|up|on|if|so|as|an|do|go")
_VARIABLES = ("abcd", "xyzw", "uvw", "pqrs", "ijk", "mnk", "rst")  # letters in a row of a product
_LABEL = re.compile(r"\\?[A-Za-z]\w*'?(?:_\{\w+\})?(?:\([A-Za-z]\))?|[A-Za-z]+(?: [A-Za-z]+){1,3}")
_SUM = re.compile(r"(?:[\d\s.,+\-*/()^%{}$]|\\times|\\cdot|\\div|\\frac|×|÷)+")


@dataclass(frozen=True)
class Quantity:
    """A number with or without a unit.

    Attributes:
        value: the number, exactly.
        text: the number as it is written, without separators.
        unit: canonical words of the unit, perhaps none.
        tentative: whether the unit is a single letter, which may be a variable as well.
        decimals: digits after the point of a decimal number, None of a fraction.
    """

    value: Fraction
    text: str
    unit: tuple[str, ...] = ()
    tentative: bool = False
    decimals: int | None = 0


@dataclass(frozen=True)
class Clock:
    """A time of day: hour, minute and second, and the half of the day, "" if it is not said."""

    time: tuple[int, int, int]
    half: str


@dataclass(frozen=True)
class Named:
    """An answer with a name: `x = 5`."""

    name: str
    answer: Answer


@dataclass(frozen=True)
class Listing:
    """Several answers.

    Attributes:
        parts: the answers.
        brackets: what they stand in: "", "()", "[)", "{}" and so on.
        joint: "or" or "and" where such a word joins them, "units" for hours and minutes, else "".
    """

    parts: tuple[Answer, ...]
    brackets: str
    joint: str


@dataclass(frozen=True)
class Words:
    """A text, compared as it stands but for case and spaces."""

    text: str


@dataclass(frozen=True)
class Formula:
    """Something for `math_verify`."""

    text: str


Answer = Quantity | Clock | Named | Listing | Words | Formula


def read_answer(answer: str) -> Answer:
    """The structure of an answer as it is written.

    Args:
        answer: what `####` or a box holds, or a bare reference.
    """
    return _read(decorated(answer))


def read_rational(text: str) -> tuple[Fraction, str, int | None, int] | None:
    """The unsigned number that a text starts with.

    Returns:
        Its value, its text without separators, its decimals (None of a fraction), and where it
        ends; or None.
    """
    found = _NUMBER.match(text)
    if found is not None:
        top, bottom = (int(one) for one in found.groups()[1:] if one is not None)
        if not bottom:
            return None
        value = Fraction(int(found["whole"] or 0)) + Fraction(top, bottom)
        return value, found[0].strip(), None, found.end()
    found = _PLAIN.match(text)
    if found is None:
        return None
    written = re.sub(r"[, '’]", "", found[0])
    if not written.isascii() or len(written) > 400:
        return None
    value = Fraction(written[:-1] if written.endswith(".") else written)
    mantissa = re.split("[eE]", written)[0]
    power = _POWER_OF_TEN.match(text, found.end())
    if power is not None and mantissa == written:
        exponent = int(power[1] or power[2])
        return value * Fraction(10) ** exponent, f"{written}e{exponent}", 0, power.end()
    return value, written, len(mantissa.partition(".")[2]), found.end()


def _read(text: str) -> Answer:
    simple = _clock(text) or _quantity(text) or _compound(text)
    if simple is not None:
        return simple
    brackets, joint, parts = split_list(text)
    if len(parts) > 1 or brackets:
        read = tuple(_read(strip_group(part)) for part in parts)
        plain = not joint and not brackets
        if plain and any(isinstance(part, Words) for part in read) and not _named(read):
            return Words(text)
        return Listing(read, brackets, joint)
    if both := re.fullmatch(r"\\pm\s*(.+)", text):
        value = _quantity(both[1])
        if value is not None:
            return Listing((value, replace(value, value=-value.value)), "", "or")
    equation = _equation(text)
    if equation is not None:
        return equation
    return Words(text) if _is_words(text) else Formula(text)


def _named(parts: tuple[Answer, ...]) -> bool:
    return any(isinstance(part, Named) for part in parts)


def _clock(text: str) -> Clock | None:
    found = _CLOCK.fullmatch(text)
    if found is None or (found[2] is None and found[4] is None):
        return None
    hour, minute, second = (int(found[n] or 0) for n in (1, 2, 3))
    if hour > 24 or minute > 59 or second > 59:
        return None
    return Clock((hour, minute, second), (found[4] or "").lower())


def _quantity(text: str) -> Quantity | None:
    head = _HEAD.match(text)
    assert head is not None
    if head["sign"] and head["inner"]:
        return None
    number = read_rational(text[head.end() :])
    if number is None:
        return None
    value, written, decimals, length = number
    rest = text[head.end() + length :]
    negative = "-" in (head["sign"], head["inner"])
    scale = re.match(rf"\s*({'|'.join(_SCALE)})s?\b", rest, re.I)
    if scale is not None:
        value, rest = value * _SCALE[scale[1].lower()], rest[scale.end() :]
        written = str(value)
    currency = () if head["currency"] is None else unit_words(head["currency"])
    tentative = False
    unit = unit_words(rest) if rest.strip() else ()
    if unit is None and (letter := re.fullmatch(r"\s*([A-Za-z])", rest)):
        unit, tentative = UNIT_OF_LETTER.get(letter[1]), True
    if unit is None or currency is None:
        return None
    both = tuple(dict.fromkeys((*currency, *unit)))
    sign = "-" if negative else ""
    return Quantity(-value if negative else value, sign + written, both, tentative, decimals)


def _compound(text: str) -> Listing | None:
    """Quantities one after another, each with its unit: `5 hours 30 minutes`."""
    pieces = re.split(r"(?<=[A-Za-z.°'])[ ,]+(?:and +)?(?=\d)|(?<=[a-z])(?=\d)", text)
    if len(pieces) < 2:
        return None
    read = [_quantity(piece.strip(" ,")) for piece in pieces]
    parts = tuple(part for part in read if part is not None and part.unit)
    return Listing(parts, "", "units") if len(parts) == len(pieces) else None


def _equation(text: str) -> Answer | None:
    """The right side of a sum, or of a name's value; None where it is neither."""
    sides = [side.strip() for side in re.split(r"(?<![<>!=:\\])=(?![=<>])", text)]
    if len(sides) < 2 or not all(sides):
        return None
    last = _read(sides[-1])
    if isinstance(last, Words):
        return None
    named = sides[:-1]
    sums = [side for side in named if _SUM.fullmatch(side) and any(c.isdigit() for c in side)]
    if len(sums) == len(named):
        return last
    if _LABEL.fullmatch(sides[0]) and len(sums) == len(named) - 1 and sides[0] not in sums:
        return Named(re.sub(r"[\s\\{}]", "", sides[0]), last)
    return None


def _is_words(text: str) -> bool:
    bare = re.sub(r"\\(?:begin|end)\s*\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    for run in re.findall(r"[^\W\d_]{2,}", bare):
        low = _FUNCTIONS.sub("", run.lower())
        if len(low) < 2:
            continue
        product = any(set(low) <= set(letters) for letters in _VARIABLES)
        word = not low.isascii() or (len(low) > 2 and not product) or _SMALL_WORDS.fullmatch(low)
        if (
            run.isupper() or (run.istitle() and len(run) > 2) or word
        ):  # in capitals: points, choices, abbreviations
            return True
    return False
