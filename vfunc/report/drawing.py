"""Style of all figures: colours, markers, axes, legend.

Figures are made without pyplot, so that nothing global changes and no display is needed. An arm has
the same colour and marker in every picture, in a palette that colour-blind readers can tell apart
(Okabe and Ito 2008).
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from vfunc.typecheck import typed

_DPI = 200
INK = "#333333"
_STYLES = {
    "baseline": ("#4d4d4d", "o"),
    "vpretraining": ("#0072b2", "s"),
    "random_feedback": ("#e69f00", "^"),
    "uniform_smoothing": ("#cc79a7", "v"),
    "self_distillation": ("#56b4e9", "D"),
    "confidence_gate": ("#d55e00", "P"),
    "known_wrong": ("#009e73", "X"),
    "known_objects": ("#009e73", "X"),
    "matched_uniform": ("#b08bc9", "<"),
    "oracle": ("#7b5ea7", "<"),
    "tilted_oracle": ("#8c6d1f", ">"),
    "mixing": ("#a3123a", "h"),
    "sft": ("#1f6f6f", "d"),
    "trl_sft": ("#2ca6a4", "d"),
    "grpo": ("#b5651d", "*"),
    "sft+grpo": ("#5d3a9b", "p"),
}
_OTHER_STYLES = (("#5d3a9b", "p"), ("#b5651d", "*"), ("#d81b60", "H"), ("#3d7a3d", "8"))


@typed
def arm_style(arm: str) -> tuple[str, str]:
    """The colour and marker of an arm, by its name alone, so that all pictures agree."""
    other = _OTHER_STYLES[zlib.crc32(arm.encode()) % len(_OTHER_STYLES)]
    return _STYLES.get(arm, other)


@typed
def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches."""
    figure = Figure(figsize=(width, height), layout=ConstrainedLayoutEngine(w_pad=0.1))
    FigureCanvasAgg(figure)
    return figure


@typed
def save(figure: Figure, path: Path | str) -> None:
    """Write a figure as a PNG.

    Raises:
        OSError: it cannot be written.
    """
    figure.savefig(Path(path), format="png", dpi=_DPI, facecolor="white")


@typed
def tidy(axes: Axes) -> None:
    """Style the axes as all are."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e6e6e6", lw=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8.5, colors=INK)
    axes.xaxis.label.set(fontsize=9.5, color=INK)
    axes.yaxis.label.set(fontsize=9.5, color=INK)


@typed
def legend(figure: Figure) -> None:
    """One legend above all panels, with every arm that any of them shows."""
    entries = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    columns = min(len(entries), 4)
    figure.legend(
        entries.values(),
        entries.keys(),
        loc="outside upper center",
        ncols=columns,
        frameon=False,
        fontsize=9,
        labelcolor=INK,
    )


@typed
def log_if_wide(axes: Axes) -> None:
    """Draw the vertical axis on a logarithmic scale where curves span more than a factor of 4."""
    heights = np.concatenate([line.get_ydata() for line in axes.lines])
    heights = heights[np.isfinite(heights)]
    if not heights.size or heights.min() <= 0 or heights.max() / heights.min() <= 4:
        return
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda number, _: f"{number:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
