"""The two kinds of benchmark, ready to be asked: answers that are chosen, and answers written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from vfunc.language.evaluation.generation import Ending

Judge = Callable[[Sequence[tuple[int, str]]], list[bool]]
"""Completions, each with the number of its question -> whether each is right."""


@dataclass(frozen=True)
class Chosen:
    """Questions whose answer is the likeliest of several continuations.

    Attributes:
        name: the benchmark's.
        prompts: the questions, with worked examples before them.
        choices: the continuations of each.
        answers: the number of the right one.
        subjects: what each question is about.
    """

    name: str
    prompts: tuple[str, ...]
    choices: tuple[tuple[str, ...], ...]
    answers: tuple[int, ...]
    subjects: tuple[str, ...]


@dataclass(frozen=True)
class Written:
    """Questions whose answer is written.

    Attributes:
        name: the benchmark's.
        prompts: the questions, with worked examples before them.
        ending: what ends an answer.
        tokens: what it may take.
        judge: whether answers are right.
    """

    name: str
    prompts: tuple[str, ...]
    ending: Ending
    tokens: int
    judge: Judge


Benchmark = Chosen | Written
