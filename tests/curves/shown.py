"""What a curve's table and figure show, as plain data."""

from __future__ import annotations

from contextlib import contextmanager

import pytest


def cells(table):
    """The table's cells, a list a row, its head first."""
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    heads = [" ".join(str(column.header).split()) for column in table.columns]
    return [heads, *map(list, zip(*columns, strict=True))]


@contextmanager
def drawn(module):
    """The figures that a module's function draws, in place of files."""
    figures = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "save", lambda figure, _: figures.append(figure))
        yield figures


def lines(axes):
    """The points of each line that has a name."""
    return {
        line.get_label(): [(float(x), float(y)) for x, y in line.get_xydata()]
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def band(axes, number=0):
    """Lower and upper ends of a band, by place."""
    points = axes.collections[number].get_paths()[0].vertices
    return {
        float(x): (float(min(ys)), float(max(ys)))
        for x in sorted(set(points[:, 0]))
        for ys in [points[points[:, 0] == x, 1]]
    }
