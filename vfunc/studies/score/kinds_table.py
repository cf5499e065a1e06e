"""What doing tasks of each kind brings: what a problem has to win, and how soon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vfunc.studies.score.rank_agreement import Array
from vfunc.studies.score.scores import effects_of
from vfunc.typecheck import typed


@typed
def effects_by_kind(
    states: Sequence[Mapping[str, Any]], measure: str
) -> dict[tuple[str, float], Array]:
    """How much further a loss falls by each kind's tasks than on the batches as they are.

    Args:
        states: what was measured, at the same horizons.
        measure: of which loss.

    Returns:
        (states, horizons) means over the tasks of a kind and share, NaN where a state has none that
        ends in finite losses; kinds in the order drawn, whole tasks first.
    """
    named = [[(task["kind"], float(task["share"])) for task in state["tasks"]] for state in states]
    kinds = list(dict.fromkeys(kind for names in named for kind, _ in names))
    drawn = {name for names in named for name in names}
    every = sorted(drawn, key=lambda name: (kinds.index(name[0]), -name[1]))
    found = {name: np.full((len(states), len(states[0]["horizons"])), np.nan) for name in every}
    for row, (state, names) in enumerate(zip(states, named, strict=True)):
        effects = effects_of(state)[:, state["measures"].index(measure)]
        for name, of_kind in found.items():
            own = effects[[other == name for other in names]]
            for h, column in enumerate(own.T):
                kept = column[np.isfinite(column)]
                of_kind[row, h] = kept.mean() if len(kept) else np.nan
    return found


@typed
def kinds_table(states: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of `effects_by_kind` on the held-out loss, in thousandths."""
    head = ["task", "share", *(f"H = {h}" for h in states[0]["horizons"])]
    rows = [
        [f"`{kind}`", f"{share:g}", *(_told(column) for column in of_kind.T)]
        for (kind, share), of_kind in effects_by_kind(states, "test").items()
    ]
    return head, rows


def _told(by_state: Array) -> str:
    known = 1e3 * by_state[np.isfinite(by_state)]
    if not len(known):
        return ""
    span = f" ({known.min():+.2f} to {known.max():+.2f})" if len(known) > 1 else ""
    return f"{known.mean():+.2f}{span}"
