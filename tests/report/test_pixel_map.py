from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from vfunc.errors import UserError
from vfunc.report import pixel_map as module
from vfunc.report.pixel_map import PARAMETERS, mask_sheet, pixel_map
from vfunc.vision.designers.photometric import PHOTOMETRIC

N, H, W = 2, 8, 12


def parts() -> dict:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(N, 3, H, W, generator=generator)
    masks = torch.rand(N, 1, H, W, generator=generator)
    values = 1e-5 * torch.randn(N, 1, H, W, generator=generator)
    return {"images": images, "views": images.square(), "masks": masks, "values": values}


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    made: list[Figure] = []

    def keep(**options: object) -> Figure:
        made.append(Figure(**options))
        return made[-1]

    monkeypatch.setattr(module, "Figure", keep)
    return made


def written(figure: Figure) -> str:
    texts = [text.get_text() for text in figure.texts]
    for axes in figure.axes:
        texts += [axes.get_title(), axes.get_xlabel(), axes.get_ylabel()]
        texts += [text.get_text() for text in axes.get_yticklabels()]
    return " | ".join(filter(None, texts)).replace("\n", " ")


def pictures_of(figure: Figure) -> list[np.ndarray]:
    return [np.asarray(a.images[0].get_array()) for a in figure.axes if a.images]


def test_a_row_holds_picture_view_mask_and_value(tmp_path: Path, figures: list[Figure]) -> None:
    made = parts()
    pixel_map(**made, path=tmp_path / "map.png", titles=["one", "$two"])
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    drawn = pictures_of(figures[0])
    assert len(drawn) == 4 * N
    for row in range(N):
        image, view, mask, value = drawn[4 * row : 4 * row + 4]
        np.testing.assert_allclose(image, made["images"][row].permute(1, 2, 0), rtol=1e-6)
        np.testing.assert_allclose(view, made["views"][row].permute(1, 2, 0), rtol=1e-6)
        np.testing.assert_allclose(mask, made["masks"][row, 0], rtol=1e-6)
        assert value.shape == (H, W, 3)
    text = written(figures[0])
    for words in ("picture", "view", "mask μ", "value", "one", "$two", "loss per unit of μ", "10^"):
        assert words in text
    assert "Blue: more of the true pixels is predicted to lower the feedback loss" in text


def test_colours_follow_the_value_and_saturate(tmp_path: Path, figures: list[Figure]) -> None:
    made = parts()
    made["images"] = torch.ones(N, 3, H, W)
    values = torch.linspace(-1, 1, N * H * W).reshape(N, 1, H, W)
    values[0, 0, 0, 0], values[1, 0, 0, 0] = -50.0, 0.0
    pixel_map(**{**made, "values": values}, path=tmp_path / "map.png")
    first, second = pictures_of(figures[0])[3], pictures_of(figures[0])[7]
    least, zero, most = first[0, 1], second[0, 0], second[-1, -1]
    assert least[0] > least[2] + 0.2  # red
    assert most[2] > most[0] + 0.2  # blue
    np.testing.assert_allclose(zero, to_rgb("#f7f7f7"), atol=0.01)
    # the outlier does not stretch the scale: its neighbours are as red as can be
    np.testing.assert_allclose(first[0, 0], first[0, 2], atol=0.02)


def test_the_picture_shows_faintly_below_its_values(tmp_path: Path, figures: list[Figure]) -> None:
    made = parts()
    made["images"][0, :, :, : W // 2], made["images"][0, :, :, W // 2 :] = 0.0, 1.0
    pixel_map(**{**made, "values": torch.zeros(N, 1, H, W)}, path=tmp_path / "map.png")
    value = pictures_of(figures[0])[3]
    assert 0.2 < (value[0, -1] - value[0, 0]).mean() < 0.5
    assert np.ptp(value, axis=-1).max() < 0.01  # grey


def test_the_mask_is_drawn_from_0_to_1(tmp_path: Path, figures: list[Figure]) -> None:
    made = parts()
    pixel_map(**{**made, "masks": 0.4 + 0.1 * made["masks"]}, path=tmp_path / "map.png")
    [mask] = [a.images[0] for a in figures[0].axes[2:3]]
    assert mask.get_clim() == (0, 1)
    assert mask.cmap(0.0)[:3] == (0, 0, 0)


def test_parameters_are_bars(tmp_path: Path, figures: list[Figure]) -> None:
    made = parts()
    values = torch.tensor([[1.0, -2.0, 0.0, 4.0], [0.5, 0.5, 0.5, -0.5]]) * 1e-3
    pixel_map(**{**made, "masks": None, "values": values}, path=tmp_path / "map.png")
    assert PARAMETERS == PHOTOMETRIC
    bars = [[p for p in a.patches if p.get_height() == 0.62] for a in figures[0].axes]
    bars = [row for row in bars if row]
    for row, expected in zip(bars, values.tolist(), strict=True):
        assert [bar.get_width() for bar in row] == pytest.approx(expected)
    red, _, blue = bars[0][0].get_facecolor()[:3]
    assert blue > red
    red, _, blue = bars[0][1].get_facecolor()[:3]
    assert red > blue
    text = written(figures[0])
    assert all(name in text for name in PARAMETERS)
    assert "mask" not in text
    limits = {a.get_xlim() for a in figures[0].axes if not a.images}
    assert len(limits) == 1


def test_nothing_of_value_and_a_single_tall_picture_can_be_drawn(tmp_path: Path) -> None:
    made = {name: x[:1, ..., :4] for name, x in parts().items()}
    pixel_map(**{**made, "values": torch.zeros(1, 1, H, 4)}, path=tmp_path / "a.png")
    bars = {**made, "masks": None, "values": torch.zeros(1, 4, requires_grad=True)}
    pixel_map(**bars, path=tmp_path / "b.png")
    assert (tmp_path / "a.png").exists()
    assert (tmp_path / "b.png").exists()


def test_a_contact_sheet_sets_each_picture_beside_its_view_and_mask(
    tmp_path: Path, figures: list[Figure]
) -> None:
    made = {name: x.repeat(3, 1, 1, 1)[:5] for name, x in parts().items() if name != "values"}
    mask_sheet(**made, path=tmp_path / "sheet.png", across=2)
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    [sheet] = pictures_of(figures[0])
    thin, wide = 1, 2
    assert sheet.shape == (3 * H + 2 * thin, 2 * (3 * W + 2 * thin) + wide, 3)
    top, left = H + thin, 3 * W + 2 * thin + wide  # the fourth picture: second line, second group
    for column, name in enumerate(("images", "views", "masks")):
        begin = left + column * (W + thin)
        tile = sheet[top : top + H, begin : begin + W]
        expected = made[name][3].expand(3, -1, -1).permute(1, 2, 0)
        np.testing.assert_allclose(tile, expected, rtol=1e-6)
    assert (sheet[2 * (H + thin) :, left:] == 1).all()  # there is no sixth
    mask_sheet(**{**made, "masks": None}, path=tmp_path / "other.png")
    assert (tmp_path / "other.png").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({name: x[:0] for name, x in parts().items()}, "at least one picture"),
        ({"values": torch.zeros(N, 4)}, r"shape \(2, 1, 8, 12\), not \(2, 4\)"),
        ({"masks": None}, r"shape \(2, 4\), not \(2, 1, 8, 12\)"),
        ({"values": torch.full((N, 1, H, W), float("nan"))}, "finite"),
        ({"masks": torch.full((N, 1, H, W), 1.5)}, r"masks in \[0, 1\]"),
        ({"masks": torch.full((N, 1, H, W), float("nan"))}, r"masks in \[0, 1\]"),
        ({"titles": ["one"]}, "2 pictures got 1 titles"),
    ],
)
def test_bad_input_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        pixel_map(**{**parts(), **change}, path=tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()
    with pytest.raises(UserError, match="at least one picture a line"):
        mask_sheet(*list(parts().values())[:3], path=tmp_path / "a.png", across=0)
