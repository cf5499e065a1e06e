"""Says in lines what is to be expected of feedback and tasks (`vfunc.training.foretelling`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def in_words(found: Mapping[str, Any]) -> list[str]:
    """What `foresee` found, in lines for a user.

    Args:
        found: agreements of g_down and gaps of value, as far as they are defined.
    """
    lines = []
    within, across = (found.get(f"agreement_{name}") for name in ("within", "held_out"))
    if within is not None and across is not None:
        lines.append(
            f"g_down    two draws of {found['agreement_examples']} feedback examples agree to "
            f"{within:+.2f} (cosine), a draw of feedback and one of held-out examples to "
            f"{across:+.2f}{_judged(within, across)}"
        )
    for name, gap in found.get("gaps", {}).items():
        t = f", t {gap['t']:.1f}" if "t" in gap else ""
        lines.append(
            f"value     V({name}) - V(baseline) {gap['mean']:+.3g} a step, over "
            f"{gap['batches']:.0f} batches{t}"
        )
    return lines


def _judged(within: float, across: float) -> str:
    if across <= 0 < within:
        return ": feedback points elsewhere than what it stands for"
    if across < 0.5 * within:
        return ": much less, so more feedback of this kind will not help"
    return ""
