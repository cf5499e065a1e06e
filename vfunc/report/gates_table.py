"""Table of where gates open: on mistaken tokens and others, on the text of each source."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from vfunc.report.table import NONE, captioned, empty_table
from vfunc.typecheck import typed

_OF_SOURCE = "gate_of/"
_KINDS = {"gate_on_wrong": "known to be mistaken", "gate_on_right": "others"}


@typed
def gate_means(events: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float | None]]:
    """The mean gate of every arm on each kind of token, over those of its steps' second half.

    Args:
        events: events of a run; a step's tell means over its tokens (`gate_on_wrong` and
            `gate_on_right` where tokens are known to be mistaken, `gate_of/NAME` by source), and in
            `counts` of how many; where one lacks these, all steps count alike.

    Returns:
        By arm and name, those whose kinds can be told apart; empty of a run where none can. None
        is of tokens that were there in the first half alone.
    """
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for event in events:
        if event["kind"] == "step" and isinstance(event.get("step"), int):  # a damaged line may not
            by_arm.setdefault(event["arm"], []).append(event)
    found = {}
    for arm, steps in by_arm.items():
        late = [e for e in steps if 2 * e["step"] > steps[-1]["step"]]
        names = dict.fromkeys(
            n for e in steps for n in e if n in _KINDS or n.startswith(_OF_SOURCE)
        )
        sources = [n for n in names if n not in _KINDS]
        if len(sources) == 1:  # a text of one source is all text
            names.pop(sources[0])
        means = {n: _mean(n, [e for e in late if n in e]) for n in names}
        if means:
            found[arm] = means
    return found


def _mean(name: str, steps: Sequence[Mapping[str, Any]]) -> float | None:
    if not steps:
        return None
    counts = [e.get("counts", {}).get(name, 0) for e in steps]
    return statistics.fmean((e[name] for e in steps), counts if all(counts) else None)


@typed
def gates_table(means: Mapping[str, Mapping[str, float | None]]) -> Table | None:
    """Table of `gate_means`: kinds of tokens below each other, arms side by side; None of none."""
    if not means:
        return None
    names = dict.fromkeys(name for of_arm in means.values() for name in of_arm)
    order = [*(n for n in _KINDS if n in names), *(n for n in names if n not in _KINDS)]
    table = empty_table()
    table.title = "where the gate opens"
    table.title_justify = "left"
    table.add_column("tokens", overflow="fold")  # a source's name, not the figures, gives way
    for arm in means:
        table.add_column(arm, justify="right", no_wrap=True)
    for name in order:
        figures = [of_arm.get(name) for of_arm in means.values()]
        cells = [NONE if x is None else f"{x:.3f}" for x in figures]
        table.add_row(*map(Text, (_told(name), *cells)))
    lines = ["mean gate α over the second half of an arm's steps"]
    if any(of_arm.get(name) is None for of_arm in means.values() for name in order):
        lines.append(f"{NONE} where the arm had no such tokens there")
    return captioned(table, lines)


def _told(name: str) -> str:
    return _KINDS.get(name) or f"of {name.removeprefix(_OF_SOURCE)}"
