"""What a question gives: its numbers, in digits and in words, and the units that it speaks of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from vfunc.language.careless.numbers import in_fraction, unit_of, word_after, written_numbers

WORDS: list[str] = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen"),
    *("eighteen", "nineteen"),
]
_TENS: list[str] = [
    *("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"),
]
_IN_WORDS = re.compile(
    rf"\b(?:({'|'.join(_TENS)})(?:[- ]({'|'.join(WORDS[1:10])}))?|({'|'.join(WORDS)}))\b",
    re.IGNORECASE,
)
# Words that a factor comes from; one and two as words are seldom numbers that are counted with.
_FACTORS = {
    2: r"twice|doubl\w*|half|halv\w*|pairs?|couples?|both",
    3: r"thrice|tripl\w*|thirds?",
    4: r"quarter\w*|fourths?|quadrupl\w*",
    5: r"fifths?",
    12: r"dozens?",
}
_CONSTANTS = {  # numbers that a solution takes from nowhere, and the words that go with them
    7: r"week|day",
    12: r"month|year|inch|feet|foot",
    16: r"ounce|oz",
    24: r"day|hour",
    30: r"month",
    52: r"week|year",
    60: r"minute|hour|second",
    100: r"%|percent|cent|meter|dollar|\$",
    365: r"year|day",
    3600: r"hour",
    1000: r"gram|kilo|kg|liter|meter|km|thousand",
}


@dataclass(frozen=True)
class Given:
    """What a question gives.

    Attributes:
        numbers: its numbers and their units, one for each time that it names them.
        percents: those that a % follows, as they are written.
        fractions: its fractions, as numerator and denominator.
        text: its text.
    """

    numbers: tuple[tuple[Fraction, str], ...]
    percents: frozenset[Fraction]
    fractions: frozenset[tuple[int, int]]
    text: str

    def knows(self, value: Fraction) -> bool:
        """Whether a number is the question's, in this unit or in hundredths of it."""
        said = {number for number, _ in self.numbers} | self.percents
        return any(v in said for v in (value, value * 100, value / 100))


def read_question(text: str) -> Given:
    """Read a question."""
    numbers: list[tuple[Fraction, str]] = []
    percents: set[Fraction] = set()
    for number in written_numbers(text):
        if in_fraction(text, number):
            continue
        numbers.append((number.worth, unit_of(number)))
        if number.percent or re.match(r"\s?percent", text[number.end :]):
            percents.add(number.value)
    for value, match in numbers_in_words(text):
        if value > 2:
            numbers.append((value, word_after(text, match.end())))
    for value, words in _FACTORS.items():
        found = re.findall(rf"\b(?:{words})\b", text, re.IGNORECASE)
        numbers += [(Fraction(value), "times")] * len(found)
    fractions = {(int(a), int(b)) for a, b in re.findall(r"(?<![\d.])(\d+)/(\d+)", text)}
    return Given(tuple(numbers), frozenset(percents), frozenset(fractions), text)


def numbers_in_words(text: str) -> list[tuple[Fraction, re.Match[str]]]:
    """The numbers that a text has in words, below a hundred, and where."""
    found: list[tuple[Fraction, re.Match[str]]] = []
    for match in _IN_WORDS.finditer(text):
        tens, ones, word = (part and part.lower() for part in match.groups())
        value = WORDS.index(word) if word else 20 + 10 * _TENS.index(tens)
        found.append((Fraction(value + (WORDS.index(ones) if ones else 0)), match))
    return found


def is_constant(value: Fraction, text: str) -> bool:
    """Whether a factor or a divisor may come from nowhere, in a text that speaks of such things."""
    words = _CONSTANTS.get(int(value)) if value.denominator == 1 else None
    return words is not None and re.search(words, text, re.IGNORECASE) is not None
