"""Finds the Pareto front of points in two figures."""

from __future__ import annotations

from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other is at least as good as in both figures, and better in one.

    Equal points are on the front together, or not at all.

    Args:
        points: two figures each, of which the first is better when higher, the second when lower.
    """
    return [not any(a >= x and b <= y and (a > x or b < y) for a, b in points) for x, y in points]
