from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from vfunc.errors import UserError
from vfunc.report import token_map as module
from vfunc.report.token_map import token_map

TOKENS = [["2", "+", "2", "\n", " is", " 5"], ["$x", " ", "数", "é"]]
VALUES = [[None, None, 0.01, 0.0, 0.02, -0.05], [0.01, 0.01, 0.01, 0.01]]
GATES = [[None, None, 0.1, 0.0, 0.2, 1.0], [0.0, 0.0, 0.0, 0.5]]
WRONG = [[False] * 5 + [True], [False] * 4]


@pytest.fixture
def figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Figure:
    made: list[Figure] = []

    def keep(**options: object) -> Figure:
        made.append(Figure(**options))
        return made[-1]

    monkeypatch.setattr(module, "Figure", keep)
    token_map(TOKENS, VALUES, GATES, WRONG, tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    return made[0]


def boxes(figure: Figure) -> list[Rectangle]:
    """The token boxes in order: they alone are as high as a box."""
    return [
        patch for patch in figure.axes[0].patches if np.isclose(patch.get_height(), module._BOX)
    ]


def test_every_token_is_written_once_with_glyphs_that_exist(figure: Figure) -> None:
    written = [text.get_text() for text in figure.axes[0].texts]
    assert written == ["2", "+", "2", "↵", " is", " 5", "$x", "␣", "□", "é"]


def test_colours_follow_the_value(figure: Figure) -> None:
    red, _, blue = zip(*(patch.get_facecolor()[:3] for patch in boxes(figure)), strict=True)
    grey = to_rgb(module._UNKNOWN)
    assert boxes(figure)[0].get_facecolor()[:3] == grey
    assert blue[2] > red[2]  # positive
    assert red[5] > blue[5]  # negative
    assert boxes(figure)[3].get_facecolor()[:3] == pytest.approx((0.969, 0.969, 0.969), abs=0.01)
    assert blue[4] - red[4] > blue[2] - red[2]  # more of it


def test_the_wrong_are_outlined(figure: Figure) -> None:
    outlined = [
        patch.get_edgecolor()[3] > 0 and patch.get_linewidth() > 1 for patch in boxes(figure)
    ]
    assert outlined == [False] * 5 + [True] + [False] * 4


def test_the_gate_is_the_share_of_the_bar(figure: Figure) -> None:
    bars = [
        patch for patch in figure.axes[0].patches if np.isclose(patch.get_height(), module._GATE)
    ]
    tracks, gates = bars[::2], bars[1::2]
    shares = [
        gate.get_width() / track.get_width() for gate, track in zip(gates, tracks, strict=True)
    ]
    assert shares == pytest.approx([0.1, 0.0, 0.2, 1.0, 0.0, 0.0, 0.0, 0.5])


def test_lines_break_after_line_ends_and_where_they_are_full(figure: Figure) -> None:
    rows = [patch.get_y() for patch in boxes(figure)]
    assert rows[0] == rows[3] < rows[4] == rows[5] < rows[6] == rows[9]
    layout = module._layouts([["word"] * 50])[0]
    assert max(token.column + token.width for token in layout) <= module._COLUMNS
    assert len({token.line for token in layout}) == 3
    [long] = module._layouts([["x" * 500]])[0]
    assert long.width <= module._COLUMNS
    assert long.text.endswith("…")


@pytest.mark.parametrize("value", [None, 0.0, 0.3])
def test_maps_without_spread_can_be_drawn(tmp_path: Path, value: float | None) -> None:
    token_map([["a", "b"]], [[value] * 2], [[None] * 2], [[False] * 2], tmp_path / "a.png")
    assert (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tokens": []}, "at least one text"),
        ({"tokens": [["a"], []]}, "at least one text"),
        ({"values": VALUES[:1]}, "`values`"),
        ({"gates": [GATES[0], GATES[1][:2]]}, "`gates`"),
        ({"wrong": [WRONG[0], []]}, "`wrong`"),
        ({"values": [VALUES[0], [float("nan")] * 4]}, "text 1, token 0: the value is nan"),
        ({"gates": [GATES[0], [0, 0, 1.5, 0]]}, "text 1, token 2: gate 1.5"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    parts = {"tokens": TOKENS, "values": VALUES, "gates": GATES, "wrong": WRONG, **change}
    with pytest.raises(UserError, match=message):
        token_map(**parts, path=tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
