"""Numbers as worked solutions write them: where they stand, what they say, how to write another."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

# Part of a word, of a time (8:30), of an ordinal (2nd) or of a longer number, digits are no number.
_NUMBER = re.compile(
    r"(?:(?<![\w.])|(?<=\d[xX]))(?<!\d:)(?<!\d,)(?<![A-Za-z]-)"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?![\d,]*\d)(?:\.\d+)?|\d+(?:\.\d+)?|\.\d+)"
    r"(?P<percent>\s?%)?(?!\d|:\d|(?:st|nd|rd|th|s)\b|\.\d|(?![xX]\d)\w*\d)"
)
_GLUED = re.compile(r"(?<=[A-Za-z])-?(\d[\d,]*(?:\.\d+)?)")  # was30 - 2, bottles-330
_UNIT = re.compile(r"[\s-]?([A-Za-z]+)")


@dataclass(frozen=True)
class Written:
    """A number in a text.

    Attributes:
        start: where its first digit, or the point before it, stands.
        end: where it ends, its % included.
        value: what the digits say.
        percent: the % after it, with the space before it, or "".
        dollars: whether a $ stands before it.
        unit: the word after it, in small letters and without a final s; "" where there is none.
        decimals: digits after the point.
        bare: whether nothing stands before its point.
        grouped: whether commas group its thousands.
    """

    start: int
    end: int
    value: Fraction
    percent: str
    dollars: bool
    unit: str
    decimals: int
    bare: bool
    grouped: bool

    @property
    def worth(self) -> Fraction:
        """What it counts in a calculation: 20% is a fifth."""
        return self.value / 100 if self.percent else self.value


def written_numbers(text: str) -> tuple[Written, ...]:
    """The numbers of a text, in order."""
    found: list[Written] = []
    for match in _NUMBER.finditer(text):
        digits = match["digits"]
        found.append(
            Written(
                match.start(),
                match.end(),
                Fraction(digits.replace(",", "")),
                match["percent"] or "",
                text[: match.start()].endswith("$"),
                word_after(text, match.end()),
                len(digits.partition(".")[2]),
                digits.startswith("."),
                "," in digits,
            )
        )
    return tuple(found)


def glued_numbers(text: str) -> tuple[Fraction, ...]:
    """What digits say that stand directly after a word, and are not read as numbers."""
    return tuple(Fraction(match[1].replace(",", "")) for match in _GLUED.finditer(text))


def word_after(text: str, at: int) -> str:
    """The word that follows there, in small letters and without a final s; or ""."""
    match = _UNIT.match(text, at)
    return match[1].lower().removesuffix("s") if match else ""


def unit_of(number: Written) -> str:
    """The unit of a number: the word after it, or $."""
    return "$" if number.dollars else number.unit


def in_fraction(text: str, number: Written) -> bool:
    """Whether it is a part of a fraction such as 2/3, which is one number."""
    before, after = text[: number.start], text[number.end :]
    top = re.match(r"/(\d+)(?![\d.,/]*\d)", after)
    bottom = re.search(r"(?<![\d.,/])(\d+)/\Z", before)
    if top and not before.endswith("/"):
        return number.value < int(top[1]) <= 20
    return bottom is not None and int(bottom[1]) < number.value <= 20


def fraction_at(text: str, number: Written) -> tuple[Fraction, Fraction]:
    """The two parts of the fraction that a number is `in_fraction` of, such as 2.5/6."""
    pairs = re.finditer(r"(\d*\.?\d+)/(\d+)", text)
    found = next(pair for pair in pairs if pair.start() <= number.start < pair.end())
    return Fraction(found[1]), Fraction(found[2])


def as_number(text: str) -> Fraction | None:
    """The value of digits that stand alone, with a sign perhaps; None where they are none."""
    plain = text.strip().replace(",", "").replace("−", "-").replace("$", "")
    return Fraction(plain) if re.fullmatch(r"[+-]?(\d+(\.\d*)?|\.\d+)", plain) else None


def is_decimal(value: Fraction) -> bool:
    """Whether a value has an end as a decimal number, and one short enough to be written."""
    return (value * 10**6).denominator == 1


def write_like(value: Fraction, model: Written, grouped: bool) -> str:
    """A value (not negative) written as another one is: its cents, its commas, its %.

    Args:
        value: what to write, with at most six decimals.
        model: the number in whose place it stands.
        grouped: whether the text groups thousands by commas.
    """
    value = value * 100 if model.percent else value
    digits = _digits(value, 6).rstrip("0").rstrip(".")
    decimals = len(digits.partition(".")[2])
    cents = model.decimals == 2 and not model.percent
    if decimals <= 2 and (cents or (model.dollars and decimals)):
        digits = _digits(value, 2)
    whole, point, rest = digits.partition(".")
    if grouped or (model.grouped and not model.percent):
        whole = f"{int(whole):,}"
    if model.bare and whole == "0" and point:
        whole = ""
    return whole + point + rest + model.percent


def _digits(value: Fraction, decimals: int) -> str:
    """A value that so many decimals write exactly."""
    whole, rest = divmod(int(value * 10**decimals), 10**decimals)
    return f"{whole}.{rest:0{decimals}}"
