"""What runs say of their data: how much feedback there is, and that sizes change nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from vfunc.errors import UserError
from vfunc.studies.curves.swept_runs import Data

ALSO_FEEDBACK = "also in the feedback"
"""Why a run leaves a held-out example out."""


def feedback_examples(data: Data) -> int | None:
    """How many labelled examples a run's feedback holds in all, by what it says of its data."""
    if "feedback" in data:
        return data["feedback"].get("sequences")
    counts = [source["pictures"]["feedback"] for source in data.get("sources", ())]
    return sum(counts) if counts else None


def require_held(data: Mapping[int, Data], sources: int) -> None:
    """Refuse sizes that the data do not hold.

    Of one source it is known how many examples there ought to be; of several, each may hold as many
    or fewer, and a size is refused that brings no more than a smaller one.

    Args:
        data: what the runs of each size say of their data.
        sources: from how many sources feedback is drawn, so many examples of each.

    Raises:
        UserError: there is such a size.
    """
    there = [(size, n) for size in sorted(data) if (n := feedback_examples(data[size]))]
    for size, n in there if sources == 1 else ():
        # what was drawn and then dropped, as too long, was there all the same
        dropped = sum(data[size].get("feedback", {}).get("dropped", {}).values())
        if n + dropped < size:
            raise UserError(
                f"--sizes {size}: the feedback holds {n + dropped} examples; leave the size out, "
                "or give more examples"
            )
    for (size, n), (larger, m) in itertools.pairwise(there):
        if m <= n:
            raise UserError(
                f"--sizes {larger}: the feedback holds {m} examples, as with {size}; leave the "
                "larger size out, or give more examples"
            )


def require_same_evaluation(data: Mapping[str, Data]) -> None:
    """Refuse settings that are judged on other held-out examples, or trained on another stream.

    Held-out examples that are feedback too are left out of a run, and a larger pool has more.

    Args:
        data: what the runs of each setting say of their data.

    Raises:
        UserError: two say something else of what is no feedback.
    """
    labels = list(data)
    for label in labels:
        # of two pools that leave out as many it may be other ones
        left = data[label].get("eval", {}).get("dropped", {}).get(ALSO_FEEDBACK)
        if left or without_feedback(data[label]) != without_feedback(data[labels[0]]):
            raise UserError(
                "which examples are held out depends on the size of the feedback, since some are "
                f"in both ({label or 'the shared runs'}); give --eval examples that are not in "
                "--feedback"
            )


def without_feedback(data: Data) -> dict[str, Any]:
    """What a run says of its data, but for its feedback."""
    kept: dict[str, Any] = {}
    for name, said in data.items():
        if name == "feedback":
            continue
        if name in ("sources", "pictures"):
            said = (
                [without_feedback(source) for source in said]
                if name == "sources"
                else {role: count for role, count in said.items() if role != "feedback"}
            )
        kept[name] = said
    return kept
