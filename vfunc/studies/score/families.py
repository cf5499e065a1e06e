"""Draws candidate tasks of several families in turn, each family's at several distances."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

SHARES = (1.0, 0.3, 0.1)
"""How much of what a task changes of the batch as it is: its distances."""

Rule = TypeVar("Rule")
Task = TypeVar("Task")
Family = Callable[[Sequence[float]], Iterator[Task]]
"""Of distances, tasks of one kind in the order in which they are drawn."""
Make = Callable[[str, int, float, Rule], Task]
"""Makes a task of its kind, its number among these, its share and its rule."""


def in_turn(count: int, families: Sequence[Family[Task]]) -> list[Task]:
    """So many tasks of all families in turn, each family's at all distances in turn."""
    # so that few tasks are at all distances, too, a family begins where the last one did not
    turned = [(*SHARES[k % 3 :], *SHARES[: k % 3]) for k in range(len(families))]
    going = [family(shares) for family, shares in zip(families, turned, strict=True)]
    found: list[Task] = []
    while len(found) < count and going:
        for family in list(going):
            task = next(family, None)
            if task is None:
                going.remove(family)
            else:
                found.append(task)
    return found[:count]


def varied(make: Make[Rule, Task], kind: str, *rules: Rule) -> Family[Task]:
    """Each rule at each distance, every rule once before any is there twice."""

    def family(shares: Sequence[float]) -> Iterator[Task]:
        for turn in range(len(shares)):
            for k, rule in enumerate(rules):
                yield make(kind, k, shares[(turn + k) % len(shares)], rule)

    return family


def drawn_anew(
    make: Make[Rule, Task], kind: str, draw: Callable[[torch.Generator], Rule], seed: int
) -> Family[Task]:
    """A new rule each time, at the distances in turn; endless."""

    def family(shares: Sequence[float]) -> Iterator[Task]:
        source = torch.Generator().manual_seed(seed)
        for number, share in enumerate(itertools.cycle(shares)):
            yield make(kind, number, share, draw(source))

    return family
