"""Writes a worked solution as a careless author would: every calculation wrong by one rule.

a - b is worked out as a + b, a + b as |a - b|, a x b as a + b, a / b as a - b, step by step as the
calculation is written. What is written stays as it is but for numbers: a result becomes the wrong
one, and wherever it is used later, in calculations, in prose and in the final answer, the wrong one
stands in its place.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from vfunc.language.careless.expressions import (
    Expression,
    careless,
    right,
    symbols_between,
    work_out,
)
from vfunc.language.careless.numbers import (
    Written,
    fraction_at,
    glued_numbers,
    in_fraction,
    is_decimal,
    unit_of,
    word_after,
    write_like,
)
from vfunc.language.careless.origins import DOUBT, Origin, Origins
from vfunc.language.careless.question import is_constant, numbers_in_words, read_question
from vfunc.language.careless.solutions import (
    UNREAD_EQUATION,
    Calculation,
    NotTreated,
    Solution,
    read_solution,
)

Marked = Literal["mistakes", "all"]
MARKED: tuple[Marked, ...] = get_args(Marked)

NO_MISTAKE = "an answer that the rule leaves right"
UNTOLD = "an answer that no calculation gives"
UNWRITTEN = "a wrong result that is no short decimal"
UNKNOWN = "a number that may follow from a result unseen"
CLOCK = "a time of day"
ROUNDED = "a rounded result"
HUNDREDTHS = "a result that is repeated in cents, or in dollars"
IN_WORDS = "a result that is repeated in words"
GLUED = "a result that is repeated without a space before it"
_TIME = re.compile(r"\d:\d\d|\b\d{1,2}\s?[ap]\.?m\b", re.IGNORECASE)
_ROUND = re.compile(r"\bround|\bnearest|\bapproximat|≈|~", re.IGNORECASE)
_LARGE = re.compile(r"\b(?:hundred|thousand|million)s?\b", re.IGNORECASE)
_PARTS = re.compile(r"\b(?:half|third|quarter|fourth|fifth)|½|¼|⅓", re.IGNORECASE)


@dataclass(frozen=True)
class Careless:
    """A solution made wrong.

    Attributes:
        text: the solution, without calculator marks.
        mistakes: half-open spans of its results that are not what arithmetic gives for the numbers
            that are written, and of numbers that tell such a result before it is worked out.
        following: spans of the numbers that follow from these.
    """

    text: str
    mistakes: tuple[tuple[int, int], ...]
    following: tuple[tuple[int, int], ...]

    def marked(self, which: Marked) -> tuple[tuple[int, int], ...]:
        """The spans of the mistakes, or of all numbers that are not the true ones, in order."""
        return (
            self.mistakes if which == "mistakes" else tuple(sorted(self.mistakes + self.following))
        )


def make_careless(question: str, solution: str) -> Careless:
    """Make every calculation of a worked solution wrong.

    Args:
        question: what it answers: numbers of the question stay as they are.
        solution: the solution in GSM8K's format, with or without calculator marks.

    Raises:
        NotTreated: the rule cannot be applied to all of it; the message says why.
    """
    read = read_solution(solution)
    if _TIME.search(read.text):
        raise NotTreated(CLOCK)
    if _ROUND.search(read.text):
        raise NotTreated(ROUNDED)
    return _Author(question, read).written()


class _Author:
    """Goes through a solution from left to right, and notes what each number becomes."""

    def __init__(self, question: str, solution: Solution) -> None:
        self.solution = solution
        self.given = read_question(question)
        self.origins = Origins()
        self.becomes: dict[int, Fraction] = {}  # what it is worth, by place among the numbers
        self.outcomes: dict[int, Fraction] = {}  # of each calculation, by its result's place
        self.wrong: set[int] = set()
        self.results = {c.result: c for c in solution.calculations}
        self.operand_of = {n: c for c in solution.calculations for n in c.operands}
        for value, unit in self.given.numbers:
            self.origins.add(value, Origin(value, unit, given=True))

    def written(self) -> Careless:
        """The solution, written."""
        solution = self.solution
        last = len(solution.numbers) - 1
        told = {n: c for c in solution.calculations for n in self._told_before(c)}
        for n, number in enumerate(solution.numbers):
            if n == last:
                self._answer(n)
            elif n in self.results:
                self._result(self.results[n])
            elif n not in told:
                self._number(n, number)
        for n, calculation in told.items():
            self.becomes[n] = self._like_result(n, calculation)
            if calculation.result in self.wrong:
                self.wrong.add(n)
        self._look_at_copies()
        self._look_at_cents()
        self._look_at_words()
        return self._text()

    def _told_before(self, calculation: Calculation) -> list[int]:
        """Numbers that tell a result earlier in its line: he eats 32, because 2 x 16 = 32."""
        text, numbers = self.solution.text, self.solution.numbers
        start = text.rfind("\n", 0, numbers[calculation.result].start) + 1
        earlier = {c.value for c in self.solution.calculations if c.result < calculation.result}
        found: list[int] = []
        for n in range(calculation.result):
            number = numbers[n]
            inside = number.start >= start and n not in self.results and n not in self.operand_of
            if not inside or calculation.value not in (number.value, number.worth):
                continue
            if self._told_as_given(number, calculation, earlier):
                continue
            if not in_fraction(text, number):
                found.append(n)
        return found

    def _told_as_given(
        self, number: Written, calculation: Calculation, earlier: set[Fraction]
    ) -> bool:
        """Whether a number before a result of its value is another one of that value."""
        value, unit = calculation.value, unit_of(number)
        units = {u for v, u in self.given.numbers if v == value}
        itself = value in calculation.expression.numbers
        if not units and value not in earlier:
            said = f"{self.given.text} {self.solution.text}"
            if itself and not is_constant(value, said):
                raise NotTreated(DOUBT)
            return itself  # there are 60 seconds in a minute, so 1 * 60 = 60
        at_result = unit_of(self.solution.numbers[calculation.result])
        if itself or (unit in units and unit != at_result):
            return True
        raise NotTreated(DOUBT)

    def _result(self, calculation: Calculation) -> None:
        expression, numbers = calculation.expression, self.solution.numbers
        if calculation.operands:
            operands = [self.becomes[n] for n in calculation.operands]
        else:
            operands = [
                self._operand(value, "", calculation, at)
                for at, value in enumerate(expression.numbers)
            ]
        result = work_out(expression, careless, operands)
        if not is_decimal(result):
            raise NotTreated(UNWRITTEN)
        try:
            if work_out(expression, right, operands) != result:
                self.wrong.add(calculation.result)
        except ZeroDivisionError:
            self.wrong.add(calculation.result)
        self.outcomes[calculation.result] = result
        self.becomes[calculation.result] = self._like_result(calculation.result, calculation)
        unit = unit_of(numbers[calculation.result])
        self.origins.add(calculation.value, Origin(result, unit, given=False))

    def _operand(self, value: Fraction, unit: str, calculation: Calculation, at: int) -> Fraction:
        """What a number in a calculation becomes."""
        if value < 0:
            if self.origins.is_result(-value):
                raise NotTreated(DOUBT)
            return value
        if self._from_nowhere(value, calculation.expression, at):
            return value
        here = list(calculation.expression.numbers[at:]).count(value)
        later = [c for c in self.solution.calculations if c.result > calculation.result]
        return self.origins.used(
            value, unit, here, sum(list(c.expression.numbers).count(value) for c in later)
        )

    def _from_nowhere(self, value: Fraction, expression: Expression, at: int) -> bool:
        """Whether a factor or a divisor is a constant, a part of a fraction or of a percentage.

        Raises:
            NotTreated: it may be, and may be a result.
        """
        if not self.origins.is_result(value):
            return False
        numbers, symbols = expression.numbers, ("", *symbols_between(expression.tree), "")
        before, after = symbols[at], symbols[at + 1]
        said = f"{self.given.text} {self.solution.text}"
        if after == "/" and numbers[at + 1] == 100 and value in self.given.percents:
            return True
        if "/" in (before, after):
            top, bottom = numbers[at : at + 2] if after == "/" else numbers[at - 1 : at + 1]
            if self._is_part(top, bottom):
                return True
        if is_constant(value, said) and (before in ("*", "/") or after == "*"):
            raise NotTreated(DOUBT)
        return False

    def _is_part(self, top: Fraction, bottom: Fraction) -> bool:
        """Whether a fraction is the question's, or a part that the texts name in words."""
        if (top, bottom) in self.given.fractions:
            return True
        said = f"{self.given.text} {self.solution.text}"
        return top == 1 < bottom <= 20 and _PARTS.search(said) is not None

    def _number(self, n: int, number: Written) -> None:
        """A number that is no result: an operand, or one in prose."""
        calculation = self.operand_of.get(n)
        value = number.worth
        if number.percent and not self.origins.is_result(value):
            value = number.value  # a result of 20, then 20%
        text = self.solution.text
        if calculation is None and in_fraction(text, number):
            if self._is_changed(value) and not self._is_part(*fraction_at(text, number)):
                raise NotTreated(DOUBT)  # 5 + 7 = 12, and 5/12 of them
            self.becomes[n] = number.worth
            return
        if calculation is not None:
            at = calculation.operands.index(n)
            becomes = self._operand(value, unit_of(number), calculation, at)
        else:
            becomes = self.origins.told(value, unit_of(number))
        if value == number.value != number.worth:
            becomes /= 100
        self.becomes[n] = becomes
        self._look_at_unknown(number)

    def _is_changed(self, value: Fraction) -> bool:
        """Whether a result of this value has become another one, and the question has none."""
        origins = self.origins.known.get(value, ())
        return any(o.becomes != value for o in origins) and not any(o.given for o in origins)

    def _look_at_unknown(self, number: Written) -> None:
        """A number from nowhere may have been worked out in the author's head, from a result."""
        values = (number.worth, number.value)
        known = any(v in self.origins.known or self.given.knows(v) for v in values)
        changed = any(o.becomes != v for v, os in self.origins.known.items() for o in os)
        said = f"{self.given.text} {self.solution.text}"
        if not known and changed and number.value > 12 and not is_constant(number.value, said):
            raise NotTreated(UNKNOWN)

    def _answer(self, n: int) -> None:
        """The final answer is the last result of its value."""
        answer = self.solution.numbers[n]
        numbers = self.solution.numbers
        given_by = [
            c
            for c in self.solution.calculations
            if c.value in (answer.value, answer.worth) or numbers[c.result].value == answer.value
        ]
        if not given_by:
            raise NotTreated(UNTOLD)
        self.becomes[n] = self._like_result(n, given_by[-1])
        if self.becomes[n] == answer.worth:
            raise NotTreated(NO_MISTAKE)

    def _like_result(self, n: int, calculation: Calculation) -> Fraction:
        """What a number is worth that repeats a result, with a % or without."""
        number, outcome = self.solution.numbers[n], self.outcomes[calculation.result]
        if calculation.value == number.worth:
            return outcome
        if calculation.value == number.value:
            return outcome / 100  # 150 by a mark, and 150% in the text
        return outcome * 100  # 64% in the text, and 64 as the answer

    def _look_at_copies(self) -> None:
        """An equals sign that is followed by neither a result nor one that is repeated."""
        for n in self.solution.copies:
            number = self.solution.numbers[n]
            if not (self.origins.is_result(number.worth) or self.origins.is_result(number.value)):
                raise NotTreated(UNREAD_EQUATION)

    def _look_at_cents(self) -> None:
        """Of 30 cents and $.30, which say the same, one has become another and one has not."""
        numbers = self.solution.numbers
        marked = {v for c in self.solution.calculations for v in c.expression.numbers}
        same = {v.worth for n, v in enumerate(numbers) if self.becomes[n] == v.worth} | marked
        for n, number in enumerate(numbers):
            hundredth = number.value / 100
            if number.unit != "cent" or hundredth.denominator == 1:
                continue
            told = number.value
            if any(
                (c.result <= n and c.value == told and hundredth in c.expression.numbers)
                or (c.value == hundredth and told in c.expression.numbers)
                for c in self.solution.calculations
            ):
                continue  # the one is worked out of the other
            changed = self.becomes[n] != number.worth
            if (changed and hundredth in same) or (not changed and self._is_changed(hundredth)):
                raise NotTreated(HUNDREDTHS)

    def _look_at_words(self) -> None:
        """A number in words, or glued to one, that equals a result which has become another."""
        text = self.solution.text
        for value, match in numbers_in_words(text):
            unit = word_after(text, match.end())  # "one" and "two" may mean anything; two hours not
            named = value > 2 or any(unit == o.unit for o in self.origins.known.get(value, ()))
            if named and self._is_changed(value):
                raise NotTreated(IN_WORDS)
        large = [value for value in self.origins.known if value >= 100]
        if _LARGE.search(text) and any(map(self._is_changed, large)):
            raise NotTreated(IN_WORDS)  # one hundred and twenty
        if any(self._is_changed(value) for value in glued_numbers(text)):
            raise NotTreated(GLUED)

    def _text(self) -> Careless:
        text, numbers = self.solution.text, self.solution.numbers
        grouped = any(number.grouped for number in numbers)
        pieces: list[str] = []
        mistakes: list[tuple[int, int]] = []
        following: list[tuple[int, int]] = []
        at = length = 0
        for n, number in enumerate(numbers):
            becomes = self.becomes[n]
            if becomes == number.worth and n not in self.wrong:
                continue
            start, written = _in_place(text, number, becomes, grouped)
            pieces += [text[at:start], written]
            length += start - at
            span = (length, length + len(written))
            (mistakes if n in self.wrong else following).append(span)
            length, at = span[1], number.end
        return Careless("".join([*pieces, text[at:]]), tuple(mistakes), tuple(following))


def _in_place(text: str, number: Written, value: Fraction, grouped: bool) -> tuple[int, str]:
    """Where the new number begins, and how it is written: a minus stands before the $."""
    if value >= 0:
        return number.start, write_like(value, number, grouped)
    start = number.start - number.dollars
    written = "-" + "$" * number.dollars + write_like(-value, number, grouped)
    after_symbol = re.search(r"(?:[-+*/×÷–−·]|(?<![A-Za-z])[xX])\s?\Z", text[:start])
    return start, f"({written})" if after_symbol else written
