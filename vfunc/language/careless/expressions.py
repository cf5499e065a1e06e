"""Calculations as worked solutions write them, worked out rightly or by the careless rule."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from vfunc.language.careless.numbers import as_number

TIMES, OVER, MINUS = "*x×X·", "/÷", "-–−"
_SYMBOL = {**dict.fromkeys(TIMES, "*"), **dict.fromkeys(OVER, "/"), **dict.fromkeys(MINUS, "-")}
_TOKEN = re.compile(r"\s*(//|[-+*/()x×X·÷–−]|\d[\d,]*\.?\d*|\.\d+)")


@dataclass(frozen=True)
class Term:
    """Two parts and the symbol between them; a part that is a number is its place among them."""

    symbol: str
    left: Term | int
    right: Term | int


@dataclass(frozen=True)
class Expression:
    """A calculation without its result.

    Attributes:
        tree: what is calculated, of numbers by their place.
        numbers: the numbers, in the order in which they are written.
    """

    tree: Term | int
    numbers: tuple[Fraction, ...]

    @property
    def calculates(self) -> bool:
        """Whether there is anything to work out."""
        return isinstance(self.tree, Term)


def symbols_between(tree: Term | int) -> tuple[str, ...]:
    """The symbols between the numbers, in the order in which they are written."""
    if isinstance(tree, int):
        return ()
    return (*symbols_between(tree.left), tree.symbol, *symbols_between(tree.right))


def right(symbol: str, a: Fraction, b: Fraction) -> Fraction:
    """What arithmetic says.

    Raises:
        ZeroDivisionError: there is nothing to divide by.
    """
    if symbol == "+":
        return a + b
    if symbol == "-":
        return a - b
    return a * b if symbol == "*" else a / b


def careless(symbol: str, a: Fraction, b: Fraction) -> Fraction:
    """A careless author's result: a + b for a - b or a x b, |a - b| for a + b, a - b for a / b."""
    if symbol == "+":
        return abs(a - b)
    return a - b if symbol == "/" else a + b


Rule = Callable[[str, Fraction, Fraction], Fraction]


def work_out(expression: Expression, rule: Rule, numbers: Sequence[Fraction]) -> Fraction:
    """The result of a calculation by a rule, step by step as it is written.

    Args:
        expression: the calculation.
        rule: what a symbol between two numbers gives.
        numbers: the numbers to put in the place of its own.
    """

    def of(part: Term | int) -> Fraction:
        if isinstance(part, int):
            return numbers[part]
        return rule(part.symbol, of(part.left), of(part.right))

    return of(expression.tree)


def parse(text: str) -> Expression | None:
    """Read a calculation of numbers, + - * / and brackets, products first; None if it is none."""
    words: list[str] = []
    at = 0
    text = text.replace("$", "").strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            return None
        words.append(match[1])
        at = match.end()
    numbers: list[Fraction] = []
    tree, rest = _sum(words, numbers)
    return None if tree is None or rest else Expression(tree, tuple(numbers))


_Read = tuple["Term | int | None", list[str]]


def _chain(
    words: list[str], numbers: list[Fraction], symbols: str, part: Callable[..., _Read]
) -> _Read:
    """Parts with symbols of one rank between them, taken from the left; 2(3) is a product."""
    tree, words = part(words, numbers)
    while tree is not None and words:
        bracket = words[0] == "(" and "*" in symbols
        symbol = "*" if bracket else _symbol(words[0])
        if symbol not in symbols:
            break
        following, words = part(words if bracket else words[1:], numbers)
        tree = None if following is None else Term(symbol, tree, following)
    return tree, words


def _sum(words: list[str], numbers: list[Fraction]) -> _Read:
    return _chain(words, numbers, "+-", _product)


def _product(words: list[str], numbers: list[Fraction]) -> _Read:
    return _chain(words, numbers, "*/", _single)


def _single(words: list[str], numbers: list[Fraction]) -> _Read:
    """A number, with a sign perhaps, or a calculation in brackets."""
    if not words:
        return None, words
    if words[0] == "(":
        tree, rest = _sum(words[1:], numbers)
        return (tree, rest[1:]) if rest[:1] == [")"] else (None, rest)
    sign = _symbol(words[0])
    signed = sign in ("+", "-")
    digits = words[1:2] if signed else words[:1]
    value = as_number(digits[0]) if digits else None
    if value is None:
        return None, words
    numbers.append(-value if sign == "-" else value)
    return len(numbers) - 1, words[2 if signed else 1 :]


def _symbol(word: str) -> str:
    return "/" if word == "//" else _SYMBOL.get(word, word)
