"""Names estimators with their options, for comparisons of them under the same conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from vfunc.config.values import nearest
from vfunc.errors import UserError

ESTIMATORS_ON_OFFER: Mapping[str, Mapping[str, Any]] = {
    **{
        value: {"estimator": "first_order", "value": value}
        for value in ("dot", "cosine", "preconditioned", "deflated", "deflated_preconditioned")
    },
    # the mean gradient is of these batches, as the learner is now, and of no earlier ones
    "deflated_fresh": {
        "estimator": "first_order",
        "value": "deflated",
        "means": 0,
        "mean_batches": 4,
    },
    "unrolled_1": {"estimator": "unrolled", "lookahead_steps": 1},
    "unrolled_4": {"estimator": "unrolled", "lookahead_steps": 4},
    "truncated_4": {"estimator": "unrolled", "lookahead_steps": 4, "truncate": 2},
    "implicit": {"estimator": "implicit"},
}
"""Options of run by the name that tables give to them."""

ESTIMATED = "vpretraining"
"""The arm that estimators differ in."""

ALL = "all"
OF_ESTIMATORS = frozenset(name for options in ESTIMATORS_ON_OFFER.values() for name in options)
"""Options that these names stand for."""


def named_estimators(names: Sequence[str]) -> list[str]:
    """The estimators that a command line names, `all` of them included.

    Args:
        names: names of `ESTIMATORS_ON_OFFER`, or `all` alone; separated by commas, too.

    Raises:
        UserError: an unknown name, one twice, or none.
    """
    listed = [part.strip() for name in names for part in name.split(",") if part.strip()]
    if listed == [ALL]:
        return list(ESTIMATORS_ON_OFFER)
    if ALL in listed:
        raise UserError(f"--estimators: {ALL} stands alone, without other names")
    for name in listed:
        if name not in ESTIMATORS_ON_OFFER:
            raise UserError(
                f"--estimators: unknown {name!r}{nearest(name, (*ESTIMATORS_ON_OFFER, ALL))}; "
                f"give {ALL}, or some of {', '.join(ESTIMATORS_ON_OFFER)}"
            )
        if listed.count(name) > 1:
            raise UserError(f"--estimators names {name} twice")
    if not listed:
        offered = ", ".join(ESTIMATORS_ON_OFFER)
        raise UserError(f"--estimators names none; give {ALL}, or some of {offered}")
    return listed


def estimator_of(options: Mapping[str, Any], names: Sequence[str]) -> str:
    """The name, of these, of the estimator that a run's options say; "" where it is none of them.

    Args:
        options: the run's resolved options.
        names: names of `ESTIMATORS_ON_OFFER`.
    """
    fitting = [
        name
        for name in ESTIMATORS_ON_OFFER
        if all(options.get(k) == v for k, v in ESTIMATORS_ON_OFFER[name].items())
    ]
    # a name that says more of the options is the better one
    best = max(fitting, key=lambda name: len(ESTIMATORS_ON_OFFER[name]), default="")
    return best if best in names else ""
