"""What doing whole tasks of each kind brings: what a problem has to win, and how soon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vfunc.studies.score.rank_agreement import Array
from vfunc.studies.score.scores import effects_of
from vfunc.typecheck import typed


@typed
def effects_by_kind(states: Sequence[Mapping[str, Any]], measure: str) -> dict[str, Array]:
    """How much further a loss falls by each kind's whole tasks than on the batches as they are.

    Args:
        states: what was measured, at the same horizons.
        measure: of which loss.

    Returns:
        (states, horizons) means over the tasks of share 1, NaN where a state has none that ends in
        finite losses; kinds in the order drawn.
    """
    kinds = dict.fromkeys(
        task["kind"] for state in states for task in state["tasks"] if task["share"] == 1
    )
    found = {kind: np.full((len(states), len(states[0]["horizons"])), np.nan) for kind in kinds}
    for row, state in enumerate(states):
        effects = effects_of(state)[:, state["measures"].index(measure)]
        for kind, of_kind in found.items():
            own = [t["kind"] == kind and t["share"] == 1 for t in state["tasks"]]
            for h, column in enumerate(effects[own].T):
                kept = column[np.isfinite(column)]
                of_kind[row, h] = kept.mean() if len(kept) else np.nan
    return found


@typed
def kinds_table(states: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of a table of `effects_by_kind` on the held-out loss, in thousandths."""
    head = ["whole tasks", *(f"H = {h}" for h in states[0]["horizons"])]
    rows = [
        [f"`{kind}`", *(_told(column) for column in of_kind.T)]
        for kind, of_kind in effects_by_kind(states, "test").items()
    ]
    return head, rows


def _told(by_state: Array) -> str:
    known = 1e3 * by_state[np.isfinite(by_state)]
    if not len(known):
        return ""
    span = f" ({known.min():+.2f} to {known.max():+.2f})" if len(known) > 1 else ""
    return f"{known.mean():+.2f}{span}"
