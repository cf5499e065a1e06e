"""Prepares token value maps as text: levels of colour, and what a token tells when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vfunc.printable import printable
from vfunc.report.page.series import number
from vfunc.report.page.themes import LEVELS

_MODES = {
    "target_values": "its current target (the designer's)",
    "values": "the text's own token",
    "oracle_values": "the oracle's target",
}
_GAIN = "what the designer's target adds to the text"
_LONGEST = 200
"""Characters of a token that are shown."""


@dataclass(frozen=True)
class Mode:
    """A value that tokens can be shaded by.

    Attributes:
        label: what it is the value of.
        limit: the value at which colours are full: the 98th percentile of their sizes.
    """

    label: str
    limit: float


@dataclass(frozen=True)
class TextToken:
    """A token of the text.

    Attributes:
        text: its characters, all of them visible.
        level: level of its colour, from -LEVELS to LEVELS; None where nothing is predicted.
        gate: fifths of the mass that the target moves off it.
        wrong: whether it is known to be mistaken.
        ends_line: whether a line ends after it.
        said: its value, in words.
    """

    text: str
    level: int | None
    gate: int
    wrong: bool
    ends_line: bool
    said: str


@dataclass(frozen=True)
class TokenMap:
    """A few texts, shaded.

    Attributes:
        title: the arm, and when.
        modes: what they can be shaded by; the first is shown.
        texts: their tokens.
        payload: what the page's script needs of them, plain data.
        candidates: whether tokens know their candidates.
    """

    title: str
    modes: Sequence[Mode]
    texts: Sequence[Sequence[TextToken]]
    payload: Mapping[str, Any]
    candidates: bool


def token_map_of(event: Mapping[str, Any]) -> TokenMap:
    """Prepare the event of a value map.

    Args:
        event: what `vfunc.language.value_map.map_values` gave; a run of before targets and
            candidates were kept has the value of the text's own token alone.

    Raises:
        ValueError: it is not of that form.
        KeyError: likewise.
        TypeError: likewise.
    """
    values = {name: event[name] for name in _MODES if name in event}
    columns: dict[str, list[list[float | None]]] = {
        _MODES[name]: [[number(v) for v in text] for text in found]
        for name, found in values.items()
    }
    if {"target_values", "values"} <= values.keys():
        target, own = (columns[_MODES[name]] for name in ("target_values", "values"))
        columns[_GAIN] = [
            [None if a is None or b is None else a - b for a, b in zip(*both, strict=True)]
            for both in zip(target, own, strict=True)
        ]
    modes = [Mode(label, _limit(found)) for label, found in columns.items()]
    texts, told = [], []
    for place, tokens in enumerate(event["tokens"]):
        of_text = [found[place] for found in columns.values()]
        candidates = event["candidates"][place] if "candidates" in event else [None] * len(tokens)
        lists = (tokens, event["gates"][place], event["wrong"][place], candidates)
        shown, payload = [], []
        for index, (token, gate, wrong, known) in enumerate(zip(*lists, strict=True)):
            own = [found[index] for found in of_text]
            moved = number(gate)
            shown.append(_token(str(token), own[0], modes[0], moved, bool(wrong), columns))
            payload.append(
                {
                    "s": _quoted(str(token)),
                    "v": own,
                    "g": moved,
                    "w": bool(wrong),
                    "c": [[_quoted(str(c[0])), *map(number, c[1:5])] for c in known or ()],
                }
            )
        texts.append(shown)
        told.append(payload)
    if not any(texts):
        raise ValueError("it holds no tokens")
    return TokenMap(
        f"{event['arm']}, after {event.get('at_step', '?')} steps",
        modes,
        texts,
        {"levels": LEVELS, "modes": [vars(mode) for mode in modes], "texts": told},
        "candidates" in event,
    )


def _token(
    token: str,
    value: float | None,
    mode: Mode,
    gate: float | None,
    wrong: bool,
    columns: Mapping[str, Any],
) -> TextToken:
    level = None if value is None else level_of(value, mode.limit)
    said = "not predicted" if value is None else f"{next(iter(columns))}: {value:.3g}"
    fifths = 0 if gate is None else round(5 * min(max(gate, 0.0), 1.0))
    if gate is not None and gate > 0.01:
        fifths = max(fifths, 1)
    ends = token.endswith("\n")
    return TextToken(
        _visible(token), level, fifths, wrong, ends, said + (", known to be wrong" * wrong)
    )


def level_of(value: float, limit: float) -> int:
    """The level of a value's colour; full at the limit."""
    return round(LEVELS * min(max(value / limit, -1.0), 1.0))


def _limit(texts: Sequence[Sequence[float | None]]) -> float:
    known = [abs(v) for text in texts for v in text if v is not None]
    return (float(np.quantile(known, 0.98)) if known else 0.0) or 1.0


def _visible(token: str) -> str:
    """A token's characters as they can be read in running text."""
    shown = printable(token.replace("\n", "⏎").replace("\t", "⇥"))
    shown = shown if len(shown) <= _LONGEST else shown[:_LONGEST] + "…"
    if not shown:
        return "∅"
    return shown if shown.strip(" ") else "·" * len(shown)


def _quoted(token: str) -> str:
    """A token by itself: spaces at its ends visible."""
    shown = _visible(token)
    lead, end = len(shown) - len(shown.lstrip(" ")), len(shown) - len(shown.rstrip(" "))
    return "·" * lead + shown.strip(" ") + "·" * end
