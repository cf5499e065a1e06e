"""Draws the pixel value map: where showing a picture's true pixels lowers the feedback loss."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import matplotlib
import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import CenteredNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from torch import Tensor

from vfunc.errors import UserError
from vfunc.printable import printable
from vfunc.typecheck import typed

Pictures = Float[Tensor, "n 3 h w"]
Masks = Float[Tensor, "n 1 h w"]

PARAMETERS = ("brightness", "contrast", "hue", "blur")
"""Names of the values (n, 4) of a designer without masks, in order."""

_TILE, _GAP = 1.75, 0.12  # inches: the longer side of a picture, and the air between two
_LEFT, _TOP, _KEY = 0.34, 0.36, 0.88  # inches: names of rows, titles, the key at the foot
_NAMES = 0.85  # inches: names of parameters, left of their bars
_INK = "#333333"
_VALUES = matplotlib.colormaps["RdBu"]
_FAINT = 0.35  # the contrast that is left of the grey picture below its values
_DPI = 200

_MASK_NOTE = (
    "value: d objective / d μ. Blue: more of the true pixels is predicted to lower the feedback "
    "loss; red: to raise it."
)
_BAR_NOTE = (
    "value: d objective / d parameter, in loss per unit of it. Blue: more of it is predicted to "
    "lower the feedback loss; red: to raise it."
)


@typed
def pixel_map(
    images: Pictures,
    views: Pictures,
    masks: Masks | None,
    values: Float[Tensor, "n ..."],
    path: Path | str,
    *,
    titles: Sequence[str] | None = None,
) -> None:
    """Draw a row a picture: picture, learned view, mask mu, and the value of its pixels.

    The value is the derivative of the estimate's objective (a predicted decrease of the feedback
    loss) in mu at a pixel: blue where more of the true pixels is predicted to lower the feedback
    loss, red where it is predicted to raise it, white at 0, over the picture in faint grey. All
    rows share one scale, which saturates at the 98th percentile of abs(value).

    For a designer without masks the values are those of its parameters, drawn as bars in the same
    colours, and all rows share one axis.

    Args:
        images: pictures, in [0, 1].
        views: views that the learner sees.
        masks: mu, in [0, 1]; None for a photometric designer.
        values: d objective / d mu, of the masks' shape; without masks (n, 4), d objective / d
            parameter in the order of `PARAMETERS`.
        path: the PNG to write.
        titles: a name for each row.

    Raises:
        UserError: no pictures, values of another shape or not finite, a mask outside [0, 1], or
            not one title for each row.
        OSError: the file cannot be written.
    """
    _check(images, masks, titles)
    value = _checked_values(values, (len(images), 4) if masks is None else masks.shape)
    limit = float(np.quantile(abs(value), 1.0 if masks is None else 0.98))
    norm = CenteredNorm(0, limit or 1.0)
    columns = ["picture", "view", *([] if masks is None else ["mask μ"]), "value"]
    figure, grid = _grid(images, columns, titles, indent=_NAMES if masks is None else 0.0)
    for row, axes in enumerate(grid):
        _picture(axes[0], _colours(images[row]))
        _picture(axes[1], _colours(views[row]))
        if masks is None:
            _bars(axes[2], value[row], norm, last=row + 1 == len(grid))
        else:
            axes[2].imshow(_numbers(masks[row, 0]), cmap="gray", vmin=0, vmax=1)
            axes[3].imshow(_over(_colours(images[row]), value[row, 0], norm))
    if masks is not None:
        _key(grid[-1][2], ScalarMappable(Normalize(0, 1), "gray"), "0: blur, 1: picture")
        clipped = bool((abs(value) > norm.halfrange).any())
        unit = f"loss per unit of μ and pixel{_unit(norm)}"
        _key(grid[-1][3], ScalarMappable(norm, _VALUES), unit, _exponent(norm), clipped)
    _note(figure, _BAR_NOTE if masks is None else _MASK_NOTE)
    figure.savefig(Path(path), format="png", dpi=_DPI, facecolor="white")


@typed
def mask_sheet(
    images: Pictures,
    views: Pictures,
    masks: Masks | None,
    path: Path | str,
    *,
    across: int = 4,
) -> None:
    """Draw a batch as a contact sheet: each picture beside its view and its mask.

    Args:
        images: pictures, in [0, 1].
        views: views that the learner sees.
        masks: mu, in [0, 1], white where the picture is kept; None for a photometric designer.
        path: the PNG to write.
        across: pictures a line.

    Raises:
        UserError: no pictures, a mask outside [0, 1], or `across` is not positive.
        OSError: the file cannot be written.
    """
    _check(images, masks, None)
    if across < 1:
        raise UserError(f"a contact sheet needs at least one picture a line, not {across}.")
    height, width = images.shape[-2:]
    thin, wide = math.ceil(width / 32), math.ceil(width / 8)  # pixels, within and between groups
    columns = [images, views, *([] if masks is None else [masks.expand(-1, 3, -1, -1)])]
    group = len(columns) * (width + thin) + wide - thin
    lines, across = math.ceil(len(images) / across), min(across, len(images))
    sheet = np.ones((lines * (height + thin) - thin, across * group - wide, 3))
    for index in range(len(images)):
        top, left = (index // across) * (height + thin), (index % across) * group
        for column in columns:
            sheet[top : top + height, left : left + width] = _colours(column[index])
            left += width + thin
    scale = 0.62 / width  # inches a pixel
    size = (sheet.shape[1] * scale + 2 * _GAP, sheet.shape[0] * scale + 2 * _GAP + 0.2)
    figure = _figure(*size)
    axes = _axes(figure, _GAP, _GAP, sheet.shape[1] * scale, sheet.shape[0] * scale)
    _picture(axes, sheet)
    axes.spines[:].set_visible(False)
    title = "picture, view" + ("" if masks is None else ", mask μ (white: kept)")
    axes.set_title(title, fontsize=8, color=_INK, loc="left", pad=3)
    figure.savefig(Path(path), format="png", dpi=_DPI, facecolor="white")


def _grid(
    images: Tensor, columns: Sequence[str], titles: Sequence[str] | None, indent: float
) -> tuple[Figure, list[list[Axes]]]:
    """A figure with axes for each row and column; the last column begins after an indent."""
    scale = _TILE / max(images.shape[-2:])
    height, width = (side * scale for side in images.shape[-2:])
    pitch = max(width, _TILE) + _GAP  # a key takes its room below a narrow picture too
    rows, left = len(images), _GAP + (_LEFT if titles is not None else 0.0)
    figure = _figure(
        left + len(columns) * pitch + indent + _GAP / 2,
        _TOP + rows * (height + _GAP) + _KEY,
    )
    grid = []
    for row in range(rows):
        bottom = _KEY + (rows - 1 - row) * (height + _GAP) + _GAP
        centred = left + (pitch - _GAP - width) / 2
        starts = [centred + column * pitch for column in range(len(columns))]
        starts[-1] += indent
        line = [_axes(figure, start, bottom, width, height) for start in starts]
        if row == 0:
            for axes, name in zip(line, columns, strict=True):
                axes.set_title(name, fontsize=9, color=_INK, pad=4)
        if titles is not None:
            name = textwrap.shorten(printable(titles[row]), 24, placeholder="…")
            line[0].set_ylabel(name, fontsize=7.5, color=_INK, labelpad=3, parse_math=False)
        grid.append(line)
    return figure, grid


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure


def _axes(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Axes without ticks, placed in inches."""
    w, h = figure.get_size_inches()
    axes = figure.add_axes((left / w, bottom / h, width / w, height / h))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_linewidth(0.4)
    return axes


def _picture(axes: Axes, colours: np.ndarray) -> None:
    axes.imshow(colours, interpolation="nearest")


def _over(colours: np.ndarray, value: np.ndarray, norm: CenteredNorm) -> np.ndarray:
    """The colours of values, shaded by the picture: where the value is 0, the picture in grey."""
    grey = colours @ np.array([0.299, 0.587, 0.114])
    return _VALUES(norm(value))[..., :3] * (1 - _FAINT + _FAINT * grey[..., None])


def _bars(axes: Axes, value: np.ndarray, norm: CenteredNorm, last: bool) -> None:
    """A bar a parameter, from 0."""
    places = np.arange(len(PARAMETERS))
    strong = np.where(value >= 0, 0.85, 0.15)  # a small bar would else be white
    axes.barh(places, value, height=0.62, color=_VALUES(strong))
    axes.axvline(0, color=_INK, lw=0.6)
    axes.set(xlim=(-1.1 * norm.halfrange, 1.1 * norm.halfrange), ylim=(3.6, -0.6))
    axes.set_yticks(places, PARAMETERS)
    axes.tick_params(length=2, labelsize=7.5, colors=_INK)
    if last:
        axes.xaxis.set_major_locator(MaxNLocator(3, steps=[1, 2, 5, 10]))
        axes.xaxis.set_major_formatter(_scaled(_exponent(norm)))
        axes.set_xlabel(f"loss per unit{_unit(norm)}", fontsize=7.5, color=_INK, labelpad=2)


def _key(
    below: Axes, colours: ScalarMappable, label: str, exponent: int = 0, clipped: bool = False
) -> None:
    """A colour bar below a column."""
    figure, place = cast("Figure", below.figure), below.get_position()  # no figure inside another
    w, h = figure.get_size_inches()
    left, width = place.x0 * w + 0.08, place.width * w - 0.16
    bar = _axes(figure, left, place.y0 * h - 0.18, width, 0.1)
    colourbar = figure.colorbar(
        colours, cax=bar, orientation="horizontal", extend="both" if clipped else "neither"
    )
    colourbar.locator = MaxNLocator(3, steps=[1, 2, 5, 10])
    colourbar.formatter = _scaled(exponent)
    colourbar.outline.set_linewidth(0.4)
    colourbar.set_label(label, fontsize=7, color=_INK, labelpad=2)
    bar.tick_params(labelsize=7, length=2, colors=_INK)


def _note(figure: Figure, text: str) -> None:
    width = figure.get_size_inches()[0]
    lines = textwrap.fill(text, int((width - 2 * _GAP) * 17))
    height = figure.get_size_inches()[1]
    figure.text(
        _GAP / width, 0.08 / height, lines, fontsize=7.5, color=_INK, va="bottom", parse_math=False
    )


def _exponent(norm: CenteredNorm) -> int:
    return 3 * math.floor(math.log10(norm.halfrange) / 3)


def _unit(norm: CenteredNorm) -> str:
    exponent = _exponent(norm)
    return "" if exponent == 0 else rf", in $10^{{{exponent}}}$"


def _scaled(exponent: int) -> FuncFormatter:
    return FuncFormatter(lambda x, _: f"{x / 10.0**exponent:g}")


def _numbers(x: Tensor) -> np.ndarray:
    return x.detach().double().cpu().numpy()


def _colours(image: Tensor) -> np.ndarray:
    """(h, w, 3); a view may leave [0, 1] by rounding."""
    return _numbers(image).transpose(1, 2, 0).clip(0, 1)


def _checked_values(values: Tensor, shape: Sequence[int]) -> np.ndarray:
    if tuple(values.shape) != tuple(shape):
        raise UserError(
            f"a pixel map needs values of shape {tuple(shape)}, not {tuple(values.shape)}."
        )
    if not bool(values.isfinite().all()):
        raise UserError("a pixel map needs finite values; some of these are not.")
    return _numbers(values)


def _check(images: Tensor, masks: Tensor | None, titles: Sequence[str] | None) -> None:
    if not images.numel():
        raise UserError("a pixel map needs at least one picture.")
    if masks is not None and not bool(((masks >= 0) & (masks <= 1)).all()):
        raise UserError("a pixel map needs masks in [0, 1].")
    if titles is not None and len(titles) != len(images):
        raise UserError(f"a pixel map of {len(images)} pictures got {len(titles)} titles.")
