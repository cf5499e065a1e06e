"""Draws the token value map: which tokens of a text lower the feedback loss when learned."""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator
from matplotlib.typing import ColorType

from vfunc.errors import UserError
from vfunc.typecheck import typed

Number = float | int

_FONT = "DejaVu Sans Mono"  # comes with matplotlib, so that a map looks the same everywhere
_INK, _TRACK, _UNKNOWN = "#333333", "#dddddd", "#f2f2f2"
_COLOURS = "RdBu"  # below 0 red, above blue
_COLUMNS = 84  # characters a line
_CHARACTER = 0.089  # inches
_LINE = 0.36  # inches: a token box, the gate below it, and air
_BOX, _GATE, _GAP = 0.56, 0.16, 0.05  # shares of a line
_MARGIN = 0.15  # inches


@dataclass(frozen=True)
class _Placed:
    """A token in the layout: its index in the text, its glyphs, line and columns."""

    index: int
    text: str
    line: float
    column: float
    width: float


@typed
def token_map(
    tokens: Sequence[Sequence[str]],
    values: Sequence[Sequence[Number | None]],
    gates: Sequence[Sequence[Number | None]],
    wrong: Sequence[Sequence[bool]],
    path: Path | str,
) -> None:
    """Draw texts with every token in the colour of its value.

    The colour is the value u of the true token, V = <g_down, g_pre> per unit of target mass: red
    where learning it is predicted to raise the feedback loss, blue where it is predicted to lower
    it, white at 0. A bar below shows the mass that the target moves off it, full at 1. Tokens known
    to be wrong are outlined. The colours saturate at the 98th percentile of abs(u), which a few
    improbable tokens would stretch.

    Args:
        tokens: for each text its tokens, decoded.
        values: for each token u, or None where nothing is predicted (a prompt): grey.
        gates: for each token the target mass moved off it, in [0, 1], or None.
        wrong: for each token whether it is known to be mistaken.
        path: the PNG to write.

    Raises:
        UserError: no tokens, lists of unequal length, a value that is not finite, or a gate outside
            [0, 1].
        OSError: the file cannot be written.
    """
    _check(tokens, values, gates, wrong)
    known = np.array([abs(u) for text in values for u in text if u is not None])
    limit = float(np.quantile(known, 0.98)) if known.size else 0.0
    norm = CenteredNorm(0, limit or 1.0)
    colours = matplotlib.colormaps[_COLOURS]
    layouts = _layouts(tokens)
    lines = layouts[-1][-1].line + 1

    width = _COLUMNS * _CHARACTER + 2 * _MARGIN
    key = 0.75  # inches, for the key at the foot
    height = lines * _LINE + 2 * _MARGIN + key
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    axes = figure.add_axes(
        (
            _MARGIN / width,
            (key + _MARGIN) / height,
            1 - 2 * _MARGIN / width,
            lines * _LINE / height,
        )
    )
    axes.set(xlim=(0, _COLUMNS), ylim=(lines, 0))
    axes.axis("off")
    for placed, text_values, text_gates, text_wrong in zip(
        layouts, values, gates, wrong, strict=True
    ):
        for token in placed:
            value = text_values[token.index]
            face = _UNKNOWN if value is None else colours(norm(float(value)))
            _draw(axes, token, face, text_gates[token.index], text_wrong[token.index])
    _key(figure, norm, bool((known > limit).any()), width, height)
    figure.savefig(Path(path), format="png", dpi=200, facecolor="white")


def _draw(axes: Axes, token: _Placed, face: ColorType, gate: float | None, wrong: bool) -> None:
    left, top = token.column, token.line + 0.08
    outline = {"ec": "black", "lw": 1.4, "zorder": 3} if wrong else {"ec": "none", "zorder": 1}
    axes.add_patch(Rectangle((left, top), token.width, _BOX, fc=face, clip_on=False, **outline))
    dark = np.dot(to_rgb(face), (0.299, 0.587, 0.114)) < 0.5
    axes.text(
        left + 0.2,
        top + _BOX / 2,
        token.text,
        family=_FONT,
        fontsize=_CHARACTER * 72 / 0.602 * 0.93,  # a glyph of this font is 0.602 em wide
        color="white" if dark else "black",
        va="center_baseline",
        parse_math=False,
        zorder=4,
    )
    if gate is not None:
        bar = {"height": _GATE, "lw": 0, "clip_on": False}
        below = (left, top + _BOX + _GAP)
        axes.add_patch(Rectangle(below, token.width, fc=_TRACK, **bar))
        axes.add_patch(Rectangle(below, token.width * float(gate), fc=_INK, **bar))


def _key(figure: Figure, norm: CenteredNorm, clipped: bool, width: float, height: float) -> None:
    """The key at the foot: colours, outline and bar."""
    bar = figure.add_axes((0.25 / width, 0.46 / height, 2.9 / width, 0.13 / height))
    extend = "both" if clipped else "neither"
    colours = ScalarMappable(norm, _COLOURS)
    colourbar = figure.colorbar(colours, cax=bar, orientation="horizontal", extend=extend)
    colourbar.locator = MaxNLocator(5)
    colourbar.outline.set_linewidth(0.4)
    exponent = 3 * math.floor(math.log10(norm.halfrange) / 3)
    unit = "" if exponent == 0 else rf", in $10^{{{exponent}}}$"
    colourbar.set_label(f"value u of the true token (V per unit of mass{unit})", fontsize=8)
    colourbar.formatter = FuncFormatter(lambda u, _: f"{u / 10.0**exponent:g}")
    bar.tick_params(labelsize=7.5)
    figure.legend(
        handles=[
            Patch(fc="white", ec="black", lw=1.4, label="known to be wrong"),
            Patch(fc=_INK, label="mass moved off (full: 1)"),
            Patch(fc=_UNKNOWN, ec="#bbbbbb", lw=0.5, label="not predicted"),
        ],
        loc="center",
        bbox_to_anchor=(0.71, 0.46 / height),
        ncols=3,
        fontsize=8,
        frameon=False,
        handlelength=1.2,
        columnspacing=1.2,
    )


def _layouts(tokens: Sequence[Sequence[str]]) -> list[list[_Placed]]:
    """Tokens set in lines, with space between texts."""
    glyphs = get_font(findfont(_FONT)).get_charmap()
    layouts, line = [], 0.0
    for text in tokens:
        placed, column = [], 0.0
        for index, token in enumerate(text):
            written = _written(token, glyphs)
            if column + len(written) + 0.4 > _COLUMNS and column:
                line, column = line + 1, 0.0
            placed.append(_Placed(index, written, line, column, len(written) + 0.4))
            column += len(written) + 0.65
            if token.endswith("\n") and index + 1 < len(text):
                line, column = line + 1, 0.0
        layouts.append(placed)
        line += 1.6
    return layouts


def _written(token: str, glyphs: Container[int]) -> str:
    """A token's glyphs: line ends and lone spaces visible, one glyph a character."""
    if token and not token.strip(" "):
        token = "␣" * len(token)
    token = token.replace("\n", "↵").replace("\t", "⇥") or "∅"
    token = "".join(character if ord(character) in glyphs else "□" for character in token)
    most = _COLUMNS - 1
    return token if len(token) <= most else token[: most - 1] + "…"


def _check(
    tokens: Sequence[Sequence[str]],
    values: Sequence[Sequence[Number | None]],
    gates: Sequence[Sequence[Number | None]],
    wrong: Sequence[Sequence[bool]],
) -> None:
    if not tokens or not all(tokens):
        raise UserError("a token map needs at least one text, and no text may be empty.")
    for name, part in (("values", values), ("gates", gates), ("wrong", wrong)):
        if [len(text) for text in part] != [len(text) for text in tokens]:
            raise UserError(f"a token map needs one entry of `{name}` for every token.")
    for text, (us, alphas) in enumerate(zip(values, gates, strict=True)):
        for index, (u, alpha) in enumerate(zip(us, alphas, strict=True)):
            if u is not None and not np.isfinite(u):
                raise UserError(
                    f"text {text}, token {index}: the value is {u}; pass None for none."
                )
            if alpha is not None and not 0 <= alpha <= 1:
                raise UserError(f"text {text}, token {index}: gate {alpha} is not in [0, 1].")
