"""Generates arithmetic word problems with worked solutions: content, style and text apart.

A `Problem` is content alone: a starting amount and what happens to it. `work` turns it into
steps, given how the author writes a step; an author who errs (see
`vfunc.language.data.mistakes`) is another writer, and later steps start from whatever was written,
so that mistakes propagate as they do in text. A `Telling` adds names and style; `render` makes the
text and keeps track of which characters are mistaken.

A stream takes a dozen calls for each problem that it draws: what is called so often does not check
its types at every call.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from vfunc.language.data.examples import Example
from vfunc.typecheck import typed

Kind = Literal["gain", "loss", "groups"]
Style = Literal["textbook", "forum"]
KINDS: tuple[Kind, ...] = get_args(Kind)
KIND_WEIGHTS = (2, 2, 1)
STYLES: tuple[Style, ...] = get_args(Style)

NAMES = ("Ann", "Ben", "Eva", "Ian", "Kim", "Lea", "Max", "Sam", "Tom", "Zoe")
OBJECTS = ("pens", "nuts", "cards", "coins", "eggs", "figs", "keys", "nails", "pins", "seeds")
BAGS = ("bags", "boxes", "jars", "packs")
GAINS = ("buys", "finds", "gets", "makes")
LOSSES = ("drops", "loses", "sells", "uses")


@dataclass(frozen=True)
class Event:
    """One thing that happens: `gain` or `loss` of `amount`, or `groups` bags of `amount` gained."""

    kind: Kind
    amount: int
    groups: int = 1


@dataclass(frozen=True)
class Problem:
    """The content of a word problem, without names, objects or style."""

    start: int
    events: tuple[Event, ...]

    @property
    def canonical(self) -> str:
        """Operations and numbers only: problems are the same if and only if these are equal."""
        sign = {"gain": "+", "loss": "-", "groups": "+"}
        return str(self.start) + "".join(
            f"{sign[e.kind]}{f'{e.groups}*' if e.kind == 'groups' else ''}{e.amount}"
            for e in self.events
        )


@dataclass(frozen=True)
class Level:
    """A difficulty: how many events, and the ranges of the numbers (inclusive)."""

    events: int
    start: tuple[int, int] = (10, 59)
    amount: tuple[int, int] = (2, 24)
    groups: tuple[int, int] = (2, 4)
    group_size: tuple[int, int] = (2, 9)


LEVELS: tuple[Level, ...] = (Level(1), Level(2), Level(3))


@dataclass(frozen=True)
class Step:
    """One line as written, left, symbol, right and result, and which characters are mistaken.

    Attributes:
        left: the first operand, as written.
        symbol: the operator, as written: "+", "-" or "*".
        right: the second operand.
        result: what is written after the equals sign.
        wrong_symbol: whether the operator is not the one that the problem asks for.
        wrong_digits: indices into `str(result)` of digits that do not follow from the operands.
    """

    left: int
    symbol: str
    right: int
    result: int
    wrong_symbol: bool = False
    wrong_digits: tuple[int, ...] = ()


Writer = Callable[[int, str, int], Step]


@dataclass(frozen=True)
class Telling:
    """The surface of a problem: who, what, in which words and style."""

    style: Style
    name: str
    thing: str
    bag: str
    verbs: tuple[str, ...]


def calculate(left: int, symbol: str, right: int) -> int:
    """The true result of `left symbol right`, for the operators "+", "-" and "*"."""
    return {"+": left + right, "-": left - right, "*": left * right}[symbol]


def write_correctly(left: int, symbol: str, right: int) -> Step:
    """The writer of an author who makes no mistakes."""
    return Step(left, symbol, right, calculate(left, symbol, right))


def work(problem: Problem, write: Writer = write_correctly) -> tuple[Step, ...]:
    """Work a problem out, line by line, each from the total that was written before it.

    Args:
        problem: the problem.
        write: the author, who writes the line for (left, symbol, right).

    Returns:
        The written lines; a group of bags takes two, its product and its sum.
    """
    total, steps = problem.start, []
    for event in problem.events:
        amount = event.amount
        if event.kind == "groups":
            steps.append(write(event.groups, "*", amount))
            amount = steps[-1].result
        steps.append(write(total, "-" if event.kind == "loss" else "+", amount))
        total = steps[-1].result
    return tuple(steps)


def draw_problem(generator: random.Random, level: Level) -> Problem:
    """Sample a problem of a level; no running total falls below 1."""
    while True:
        total = start = generator.randint(*level.start)
        events: list[Event] = []
        for _ in range(level.events):
            (kind,) = generator.choices(KINDS, KIND_WEIGHTS)
            if kind == "groups":
                event = Event(
                    kind, generator.randint(*level.group_size), generator.randint(*level.groups)
                )
            else:
                event = Event(kind, generator.randint(*level.amount))
            total += (-1 if kind == "loss" else 1) * event.amount * event.groups
            if total < 1:
                break
            events.append(event)
        if len(events) == level.events:
            return Problem(start, tuple(events))


@typed
def draw_telling(generator: random.Random, problem: Problem, style: Style) -> Telling:
    """Sample names, objects and verbs for a problem; both styles share the same words."""
    return Telling(
        style,
        generator.choice(NAMES),
        generator.choice(OBJECTS),
        generator.choice(BAGS),
        tuple(generator.choice(LOSSES if e.kind == "loss" else GAINS) for e in problem.events),
    )


@typed
def render(problem: Problem, telling: Telling, steps: Sequence[Step]) -> Example:
    """Write a problem and its worked solution as text.

    Args:
        problem: the content; its true solution gives `Example.answer`.
        telling: names, verbs and style.
        steps: the solution as its author wrote it, from `work`.

    Returns:
        An example whose prompt ends with a newline and whose completion ends with `#### N`, N
        being the author's result; `wrong` holds the characters of mistaken operators and
        digits, in order, and not what merely follows from them.
    """
    textbook = telling.style == "textbook"
    text, spans = "", []
    for position, step in enumerate(steps):
        if position:
            text += "\n" if textbook else ";"
        text += f"{step.left}"
        if step.wrong_symbol:
            spans.append((len(text), len(text) + len(step.symbol)))
        text += f"{step.symbol}{step.right}="
        spans += [(len(text) + digit, len(text) + digit + 1) for digit in step.wrong_digits]
        text += f"{step.result}"
    text += f"\n#### {steps[-1].result}"
    return Example(
        prompt=_question(problem, telling),
        completion=text,
        answer=str(work(problem)[-1].result),
        wrong=tuple(spans),
    )


def _question(problem: Problem, telling: Telling) -> str:
    """The question in the telling's style, ending with a newline."""
    happenings = [
        f"{verb} {event.groups} {telling.bag} of {event.amount}"
        if event.kind == "groups"
        else f"{verb} {event.amount}"
        for verb, event in zip(telling.verbs, problem.events, strict=True)
    ]
    name, thing = telling.name, telling.thing
    if telling.style == "textbook":
        story = "".join(f" {name} {happening}." for happening in happenings)
        return f"{name} has {problem.start} {thing}.{story} How many {thing}?\n"
    story = "".join(f", {happening}" for happening in happenings)
    return f"hey {name} has {problem.start} {thing}{story}, how many {thing}??\n"
