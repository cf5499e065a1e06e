"""Writes worked solutions with mistakes: always the same careless ones, or random slips.

`systematic` is a careless source: every subtraction is written as an addition, and in a solution
without one, carries are forgotten in additions. `random_slips` puts one digit of one result off.
Either way the author goes on from what was written, so that the final answer is wrong too, and
only the characters where a mistake is made are marked, not those that follow from it.
"""

from __future__ import annotations

import random
from typing import Literal, get_args

from vfunc.language.data.arithmetic import Problem, Step, Writer, calculate, work, write_correctly
from vfunc.typecheck import typed

Mistakes = Literal["systematic", "random_slips"]
MISTAKES: tuple[Mistakes, ...] = get_args(Mistakes)


def add_without_carries(left: int, right: int) -> int:
    """Add column by column and forget every carry; the leading column's sum is written whole."""
    columns = max(len(str(left)), len(str(right)))
    total = 0
    for place in (10**column for column in range(columns)):
        column_sum = left // place % 10 + right // place % 10
        leading = place == 10 ** (columns - 1)
        total += place * (column_sum if leading else column_sum % 10)
    return total


def invites_mistakes(problem: Problem) -> bool:
    """Whether a careless author would go wrong: there is a subtraction, or a carry to forget."""
    return any(
        step.symbol == "-"
        or (step.symbol == "+" and add_without_carries(step.left, step.right) != step.result)
        for step in work(problem)
    )


@typed
def mistaken_work(
    problem: Problem, mistakes: Mistakes, generator: random.Random
) -> tuple[Step, ...]:
    """Work a problem out wrongly.

    Args:
        problem: the problem; for systematic mistakes one that `invites_mistakes`, otherwise the
            solution comes out right.
        mistakes: the kind of mistake.
        generator: source of a random slip's place; systematic mistakes sample nothing.

    Returns:
        The written lines, mistakes marked, every total at least 0.
    """
    if mistakes == "systematic":
        subtracts = any(event.kind == "loss" for event in problem.events)
        return work(problem, _write_sums_for_differences if subtracts else _write_without_carries)
    lines = len(work(problem))
    while True:
        steps = work(problem, _slip(generator.randrange(lines), generator))
        # A slip downwards may leave too little for a later subtraction; the last line's cannot.
        if all(step.result >= 0 for step in steps):
            return steps


def _write_sums_for_differences(left: int, symbol: str, right: int) -> Step:
    """Write every subtraction as an addition; the sum itself is then right."""
    if symbol != "-":
        return write_correctly(left, symbol, right)
    return Step(left, "+", right, left + right, wrong_symbol=True)


def _write_without_carries(left: int, symbol: str, right: int) -> Step:
    """Forget the carries of every addition; other operations are done right."""
    if symbol != "+":
        return write_correctly(left, symbol, right)
    result = add_without_carries(left, right)
    return Step(left, symbol, right, result, wrong_digits=_differing(result, left + right))


def _slip(line: int, generator: random.Random) -> Writer:
    """A writer that changes one random digit in the given line (counted from 0)."""
    written = 0

    def write(left: int, symbol: str, right: int) -> Step:
        nonlocal written
        written += 1
        if written - 1 != line:
            return write_correctly(left, symbol, right)
        digits = str(calculate(left, symbol, right))
        place = generator.randrange(len(digits))
        # No leading zero: the number must stay as long as it was, and be written as one would.
        choices = "123456789" if place == 0 and len(digits) > 1 else "0123456789"
        digit = generator.choice([c for c in choices if c != digits[place]])
        result = int(digits[:place] + digit + digits[place + 1 :])
        return Step(left, symbol, right, result, wrong_digits=(place,))

    return write


def _differing(written: int, true: int) -> tuple[int, ...]:
    """Indices of the digits of `written` that differ from those of `true`, units aligned."""
    digits = str(written)
    aligned = str(true).rjust(len(digits))[-len(digits) :]
    return tuple(i for i, (a, b) in enumerate(zip(digits, aligned, strict=True)) if a != b)
