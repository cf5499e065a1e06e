"""Tells where gates open: their means over tokens, on mistaken ones and on each source's text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from vfunc.language.data.examples import TokenBatch
from vfunc.processes import ALONE, Processes
from vfunc.typecheck import typed

OF_SOURCE = "gate_of/"
"""What the name of a mean over a source's text begins with; the source's name follows."""


@typed
def gate_notes(
    alpha: Float[Tensor, "B T"],
    q: Float[Tensor, "B T K_plus_1"],
    batch: TokenBatch,
    sources: Sequence[str] = (),
    processes: Processes = ALONE,
) -> tuple[dict[str, float], dict[str, float]]:
    """Means over the predicted positions of a micro-batch, of all processes' parts of it.

    Args:
        alpha: gates, in [0, 1].
        q: targets, the true token's mass first.
        batch: which positions are predicted, which are mistaken, and of which source.
        sources: names of the stream's sources, by the number that a sequence has as its domain;
            empty tells none apart.
        processes: those that hold the other parts.

    Returns:
        `gate`, and `moved`, the mass that targets take off the true token; `gate_on_wrong` and
        `gate_on_right`, where tokens are known to be mistaken; `gate_of/NAME` of each source that
        has text here. What there is no token for is left out. And of how many tokens each is.
    """
    predict = batch.predict
    mistaken = predict & batch.wrong
    held = {
        "gate": (alpha, predict),
        "moved": (q[..., 0], predict),
        "gate_on_wrong": (alpha, mistaken),
        "gate_on_right": (alpha, predict & ~batch.wrong),
        **_by_source(alpha, batch, sources),
    }
    if processes.alone:
        counts = {n: float(where.sum()) for n, (_, where) in held.items()}
        told = _told(counts)
        means = {n: float(x[where].mean()) for n, (x, where) in held.items() if n in told}
        if means:
            means["moved"] = float(1 - q[..., 0][predict].mean())
        return means, told
    parts = [(float(x[where].sum()), int(where.sum())) for x, where in held.values()]
    totals = processes.totals(*(number for part in parts for number in part))
    told = _told(dict(zip(held, map(float, totals[1::2]), strict=True)))
    means = {n: x / told[n] for n, x in zip(held, totals[::2], strict=True) if n in told}
    if means:
        means["moved"] = 1 - means["moved"]
    return means, told


_OF_MISTAKES = ("gate_on_wrong", "gate_on_right")


def _told(counts: Mapping[str, float]) -> dict[str, float]:
    """Of those, what there are tokens for; a text's answer may be cut off."""
    known = counts["gate_on_wrong"] > 0
    return {n: k for n, k in counts.items() if k and (known or n not in _OF_MISTAKES)}


def _by_source(
    alpha: Tensor, batch: TokenBatch, sources: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    if not sources:
        return {}
    of = torch.zeros_like(batch.tokens[:, 0]) if batch.domains is None else batch.domains
    return {
        f"{OF_SOURCE}{name}": (alpha, batch.predict & (of == number)[:, None])
        for number, name in enumerate(sources)
    }
