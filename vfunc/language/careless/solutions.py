"""Reads worked solutions in GSM8K's format: their numbers, and what is calculated of which.

A calculation is one that a mark tells, `48/2 = <<48/2=24>>24`, or that stands in the text without
one, `$120 + $15 = $135`. What cannot be read without a doubt is a reason to leave a solution as it
is: a rule that is applied to half of a solution leaves numbers that belong together apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

from vfunc.language.careless.expressions import Expression, parse, right, work_out
from vfunc.language.careless.numbers import Written, as_number, written_numbers

_MARK = re.compile(r"<<([^<>]*)>>")
_ANSWER = re.compile(r"(?:^|\n)####[ \t]*([^\n]*)\s*\Z")
_BOUNDARY = re.compile(r"[\n=;:?!]|[.,](?=\s|$)")
_RATE = re.compile(r"(?<=[\dA-Za-z])\s?/\s?[A-Za-z]+")  # $12/hour
_WORD = re.compile(r"(?<=[\d%)\sA-Za-z])\s?(?![xX](?:\b|\d))[A-Za-z]+(?:['’-][A-Za-z]+)*\.?")
_UNIT_WORDS = 4
"""Words between a number and the symbol after it: 3 large stickers + 42 stickers."""

NO_ANSWER = "no final answer after ####"
NO_CALCULATION = "no calculation"
UNREAD_MARK = "a calculator mark that cannot be read"
CONTRADICTED = "a calculation whose mark tells another one"
UNREAD_EQUATION = "an equation that is no calculation"
OTHER_DIGITS = "digits of another script"


class NotTreated(Exception):
    """A solution to which the rule cannot be applied; its text says why."""


@dataclass(frozen=True)
class Calculation:
    """A calculation in a solution.

    Attributes:
        expression: what is calculated.
        operands: the place among the solution's numbers of each of the expression's, where they
            are written; none where only the mark tells what is calculated.
        result: the place of its result among the solution's numbers.
        value: the result, as it is written.
    """

    expression: Expression
    operands: tuple[int, ...]
    result: int
    value: Fraction


@dataclass(frozen=True)
class Solution:
    """A worked solution, read.

    Attributes:
        text: the solution without its marks.
        numbers: its numbers, in order; the last is the final answer.
        calculations: what is calculated, in the order of the results.
        copies: places of the numbers that follow an equals sign and are no result.
    """

    text: str
    numbers: tuple[Written, ...]
    calculations: tuple[Calculation, ...]
    copies: tuple[int, ...]


def without_marks(text: str) -> str:
    """A solution without its calculator marks."""
    return _MARK.sub("", text)


def read_solution(text: str) -> Solution:
    """Read a solution.

    Raises:
        NotTreated: some of it cannot be read.
    """
    marks: list[tuple[int, str]] = []  # place in the text without marks
    removed = 0
    for match in _MARK.finditer(text):
        marks.append((match.start() - removed, match[1]))
        removed += len(match[0])
    plain = without_marks(text)
    if "<<" in plain or ">>" in plain:
        raise NotTreated(UNREAD_MARK)
    if any(character.isdecimal() and not character.isascii() for character in plain):
        raise NotTreated(OTHER_DIGITS)  # the new numbers would stand there in these ones
    numbers = written_numbers(plain)
    answer = _ANSWER.search(plain)
    if answer is None or not numbers or numbers[-1].start < answer.start(1):
        raise NotTreated(NO_ANSWER)
    if as_number(answer[1].removesuffix("%")) != numbers[-1].value:
        raise NotTreated(NO_ANSWER)
    calculations = _calculations(plain, numbers, marks)
    if not calculations:
        raise NotTreated(NO_CALCULATION)
    copies = _copies(plain, numbers, calculations)
    return Solution(plain, numbers, calculations, copies)


def _calculations(
    text: str, numbers: tuple[Written, ...], marks: list[tuple[int, str]]
) -> tuple[Calculation, ...]:
    """What the marks and the text calculate, in order."""
    found: dict[int, Calculation] = {}
    for at, mark in marks:
        result = _number_after(text, numbers, at)
        said, equals, value = mark.rpartition("=")
        worth, expression = as_number(value), parse(said)
        if result is None or not equals or worth is None or expression is None:
            raise NotTreated(UNREAD_MARK)
        if worth not in (numbers[result].value, numbers[result].worth):
            raise NotTreated(UNREAD_MARK)
        end = len(re.sub(r"[\s$=]+\Z", "", text[:at]))
        for value in dict.fromkeys((worth, numbers[result].worth)):
            shown = _shown(text, numbers, end, value)
            if shown is not None:
                found[result] = Calculation(*shown, result, value)
                break
        else:
            if _shown(text, numbers, end, None) is not None:
                raise NotTreated(CONTRADICTED)
            if expression.calculates:  # else a number that is said to be itself
                found[result] = Calculation(expression, (), result, worth)
    for match in re.finditer("=", text):
        result = _number_after(text, numbers, match.end())
        if result is None or result in found or _goes_on(text, numbers[result]):
            continue
        end = len(text[: match.start()].rstrip())
        for worth in dict.fromkeys((numbers[result].worth, numbers[result].value)):
            shown = _shown(text, numbers, end, worth)
            if shown is not None:
                found[result] = Calculation(*shown, result, worth)
                break
    return tuple(found[result] for result in sorted(found))


def _number_after(text: str, numbers: tuple[Written, ...], at: int) -> int | None:
    """The place of the number that stands there, after spaces and a $ at most."""
    gap = re.compile(r"[\s$]*").match(text, at)
    assert gap is not None
    return next((n for n, number in enumerate(numbers) if number.start == gap.end()), None)


def _goes_on(text: str, number: Written) -> bool:
    """Whether a symbol and a number follow: then this one is no result."""
    return re.match(r"\s*[-+*/x×÷–−]\s*\$?[\d.]", text[number.end :]) is not None


def _shown(
    text: str, numbers: tuple[Written, ...], end: int, worth: Fraction | None
) -> tuple[Expression, tuple[int, ...]] | None:
    """The longest calculation that ends there in the text and has this result, or any."""
    boundaries = [match.end() for match in _BOUNDARY.finditer(text, 0, end)]
    begin = boundaries[-1] if boundaries else 0
    inside = [n for n, number in enumerate(numbers) if begin <= number.start < end]
    for first in range(len(inside) - 1):
        operands = tuple(inside[first:])
        opening = re.search(r"[\s($]*\Z", text[begin : numbers[operands[0]].start])
        assert opening is not None
        start = begin + opening.start()
        expression = _parsed(text[start:end])
        if expression is None or len(expression.numbers) != len(operands):
            continue
        values = tuple(numbers[n].worth for n in operands)
        if any(said < 0 for said in expression.numbers):
            continue
        expression = Expression(expression.tree, values)
        if expression.calculates and (worth is None or _is_result(expression, worth)):
            return expression, operands
    return None


def _parsed(text: str) -> Expression | None:
    """A calculation with units between its numbers and symbols."""
    text = _RATE.sub("", text)
    between = re.split(r"[+*/÷×–−()]|\s-|-\s|(?<![A-Za-z])[xX](?![A-Za-z])|\d", text)
    if any(len(part.split()) > _UNIT_WORDS for part in between):
        return None
    return parse(_WORD.sub(" ", text).replace("%", ""))


def _is_result(expression: Expression, worth: Fraction) -> bool:
    """Whether arithmetic gives this, perhaps rounded to the hundredth."""
    try:
        exact = work_out(expression, right, expression.numbers)
    except ZeroDivisionError:
        return False
    return exact == worth or (exact.denominator > 1 and abs(exact - worth) <= Fraction(1, 100))


def _copies(
    text: str, numbers: tuple[Written, ...], calculations: tuple[Calculation, ...]
) -> tuple[int, ...]:
    """Numbers after an equals sign that are no result; an unread equation is refused."""
    results = {c.result for c in calculations}
    openings = {c.operands[0] for c in calculations if c.operands}
    copies = list[int]()
    for match in re.finditer("=", text):
        after = _number_after(text, numbers, match.end())
        bracketed = re.compile(r"[\s($]*").match(text, match.end())
        assert bracketed is not None
        opening = next((n for n in openings if numbers[n].start == bracketed.end()), None)
        line = text[: match.start()].rpartition("\n")[2]
        said = re.split(r"[.;:=]\s", line)[-1]
        if after in results:
            continue
        if opening is not None and not re.search(r"\d", said):
            continue  # a label: Purple = 5 * 230 = 1150
        if after is not None and not _goes_on(text, numbers[after]):
            copies.append(after)
            continue
        rest = text[match.end() :].partition("\n")[0]
        if not re.search(r"\d", said) and not re.search(r"\d", rest):
            continue  # E = Evan's earnings
        raise NotTreated(UNREAD_EQUATION)
    return tuple(copies)
