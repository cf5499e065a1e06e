"""Prepares token value maps as text: levels of colour, and what a token tells when asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vfunc.printable import printable
from vfunc.report.map_events import map_title
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
        limits: the value at which colours are full, for each value: the 98th percentile of their
            sizes.
    """

    label: str
    limits: Sequence[float]


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
        values: the values that lie side by side, by name: dot, and others where there are some.
        modes: what they can be shaded by; the first is shown.
        texts: of each the tokens, once by each value.
        payload: what the page's script needs of them, plain data.
        candidates: whether tokens know their candidates.
    """

    title: str
    values: Sequence[str]
    modes: Sequence[Mode]
    texts: Sequence[Sequence[Sequence[TextToken]]]
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
    sides = {"dot": _columns(event)}
    sides |= {str(name): _columns(found) for name, found in event.get("others", {}).items()}
    labels = list(sides["dot"])
    modes = [Mode(label, [_limit(found[label]) for found in sides.values()]) for label in labels]
    texts, told = [], []
    for place, tokens in enumerate(event["tokens"]):
        candidates = event["candidates"][place] if "candidates" in event else [None] * len(tokens)
        lists = (tokens, event["gates"][place], event["wrong"][place], candidates)
        shown: list[list[TextToken]] = [[] for _ in sides]
        payload = []
        for index, (token, gate, wrong, known) in enumerate(zip(*lists, strict=True)):
            own = [[found[label][place][index] for label in labels] for found in sides.values()]
            moved = number(gate)
            for side, values in enumerate(own):
                limit = modes[0].limits[side]
                shown[side].append(
                    _token(str(token), values[0], limit, moved, bool(wrong), labels[0])
                )
            payload.append(
                {
                    "s": _quoted(str(token)),
                    "v": own,
                    "g": moved,
                    "w": bool(wrong),
                    "c": [
                        [_quoted(str(c[0])), *map(number, c[1 : 4 + len(sides)])]
                        for c in known or ()
                    ],
                }
            )
        texts.append(shown)
        told.append(payload)
    if not any(event["tokens"]):
        raise ValueError("it holds no tokens")
    payload = {"levels": LEVELS, "modes": [vars(mode) for mode in modes], "texts": told}
    return TokenMap(
        map_title(event),
        list(sides),
        modes,
        texts,
        payload | {"values": list(sides)},
        "candidates" in event,
    )


def _columns(event: Mapping[str, Any]) -> dict[str, list[list[float | None]]]:
    """By what it is worth, a value of each token: of one value estimator's direction."""
    columns: dict[str, list[list[float | None]]] = {
        label: [[number(v) for v in text] for text in event[name]]
        for name, label in _MODES.items()
        if name in event
    }
    if {"target_values", "values"} <= event.keys():
        target, own = (columns[_MODES[name]] for name in ("target_values", "values"))
        columns[_GAIN] = [
            [None if a is None or b is None else a - b for a, b in zip(*both, strict=True)]
            for both in zip(target, own, strict=True)
        ]
    return columns


def _token(
    token: str,
    value: float | None,
    limit: float,
    gate: float | None,
    wrong: bool,
    label: str,
) -> TextToken:
    level = None if value is None else level_of(value, limit)
    said = "not predicted" if value is None else f"{label}: {value:.3g}"
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
