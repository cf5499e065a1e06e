"""Reading one picture, label map or depth map: every kind of pixel, and every kind of damage."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from vfunc.errors import UserError
from vfunc.vision.data.batches import IGNORE
from vfunc.vision.data.decoding import Encoded
from vfunc.vision.data.pictures import picture_size, read_depth, read_image, read_labels

RNG = np.random.default_rng(0)


def saved(path, array, mode=None, **options):
    picture = Image.fromarray(np.asarray(array))
    if mode:
        picture = picture.convert(mode)
    picture.save(path, **options)
    return path


def one_line(message):
    text = str(message.value)
    assert "\n" not in text and "Traceback" not in text
    return text


def test_colours_arrive_channels_first_in_order(tmp_path):
    pixels = RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8)  # odd sizes, height and width differ
    image = read_image(saved(tmp_path / "a.png", pixels))
    assert image.shape == (3, 5, 7) and image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(pixels).permute(2, 0, 1))


def test_grey_becomes_three_equal_channels(tmp_path):
    pixels = RNG.integers(0, 256, (3, 1), dtype=np.uint8)
    image = read_image(saved(tmp_path / "a.png", pixels))
    assert torch.equal(image, torch.from_numpy(pixels).expand(3, 3, 1))


def test_sixteen_bit_grey_is_scaled_by_its_full_range(tmp_path):
    # 257 = 65535 / 255: k * 257 is exactly k; half a step rounds up
    values = np.array([[0, 257, 128 * 257, 65535], [128, 129, 256, 65534]], np.uint16)
    image = read_image(saved(tmp_path / "a.png", values))
    assert image[0].tolist() == [[0, 1, 128, 255], [0, 1, 1, 255]]
    assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])


def test_transparency_is_laid_over_white(tmp_path):
    pixels = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], np.uint8)
    image = read_image(saved(tmp_path / "a.png", pixels))
    assert image[:, 0].T.tolist() == [[200, 0, 0], [255, 255, 255], [204, 204, 204]]


def test_palettes_are_looked_up_and_their_transparent_colour_is_white(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L")
    picture = picture.convert("P")
    picture.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    picture.save(tmp_path / "a.png", transparency=1)
    image = read_image(tmp_path / "a.png")
    assert image[:, 0].T.tolist() == [[10, 20, 30], [255, 255, 255], [70, 80, 90]]


def test_grey_with_alpha_and_bilevel_pictures(tmp_path):
    Image.fromarray(np.array([[[100, 255], [100, 0]]], np.uint8), "LA").save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[:, 0].T.tolist() == [[100] * 3, [255] * 3]
    saved(tmp_path / "b.png", np.array([[True, False]]))
    assert read_image(tmp_path / "b.png")[0].tolist() == [[255, 0]]


def test_cmyk_is_converted(tmp_path):
    Image.new("CMYK", (8, 8), (0, 0, 0, 0)).save(tmp_path / "a.jpg")
    assert read_image(tmp_path / "a.jpg").min() > 250


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation_is_applied(tmp_path, suffix):
    pixels = np.zeros((16, 32, 3), np.uint8)
    pixels[:, :16] = 255  # left half white; orientation 6 turns it clockwise: the top half
    exif = Image.Exif()
    exif[0x0112] = 6
    path = saved(tmp_path / f"a.{suffix}", pixels, exif=exif)
    image = read_image(path).float()
    assert image.shape == (3, 32, 16) and picture_size(path) == (32, 16)
    assert image[:, :14].min() > 200 and image[:, 18:].max() < 50


def test_a_file_in_memory_reads_the_same(tmp_path):
    path = saved(tmp_path / "a.png", RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8))
    held = Encoded(path.read_bytes(), "row 3")
    assert torch.equal(read_image(held), read_image(path)) and picture_size(held) == (4, 6)
    with pytest.raises(UserError, match=r"^row 4: is empty$"):
        read_image(Encoded(b"", "row 4"))


def damaged(tmp_path):
    whole = saved(tmp_path / "whole.png", RNG.integers(0, 65536, (40, 40), dtype=np.uint16))
    data = whole.read_bytes()
    jpeg = saved(tmp_path / "whole.jpg", RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "cut.jpg").write_bytes(jpeg.read_bytes()[:700])
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "bits.png").write_bytes(data[:100] + b"\xff" * 40 + data[140:])
    (tmp_path / "folder.png").mkdir()


@pytest.mark.parametrize(
    "name, said",
    [
        ("empty.png", "is empty"),
        ("cut.png", "corrupt or cut off"),
        ("cut.jpg", "corrupt or cut off"),
        ("text.png", "no picture in a known format"),
        ("bits.png", "corrupt"),
        ("missing.png", "there is no such file"),
        ("folder.png", "is not a file"),
    ],
)
@pytest.mark.parametrize("read", [read_image, read_labels, read_depth])
def test_damage_is_one_line_that_names_the_file(tmp_path, read, name, said):
    damaged(tmp_path)
    if name.endswith("jpg"):  # refused before its pixels are looked at
        said = {read_labels: "lossy", read_depth: "not measured depth"}.get(read, said)
    with pytest.raises(UserError, match=said) as caught:
        read(tmp_path / name)
    assert one_line(caught).startswith(str(tmp_path / name))


def test_several_pages_are_refused(tmp_path):
    pages = [Image.new("L", (4, 4), k) for k in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(UserError, match="holds 3 pages"):
        read_image(tmp_path / "a.tif")


def test_floating_point_pixels_are_refused(tmp_path):
    path = saved(tmp_path / "a.tif", np.ones((2, 2), np.float32))
    with pytest.raises(UserError, match="no range of their own"):
        read_image(path)


def test_large_pictures_warn_nobody_and_bombs_are_refused(tmp_path, monkeypatch):
    path = saved(tmp_path / "a.png", np.zeros((10, 10), np.uint8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 90)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_image(path).shape == (3, 10, 10)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(UserError, match="too many pixels"):
        read_image(path)


def test_label_maps_hold_indices(tmp_path):
    classes = np.array([[0, 1, 7], [11, 11, 3]], np.uint8)
    labels = read_labels(saved(tmp_path / "a.png", classes), 11)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [[0, 1, 7], [IGNORE, IGNORE, 3]]
    assert read_labels(tmp_path / "a.png").tolist() == classes.tolist()


def test_a_palette_label_map_holds_indices_not_colours(tmp_path):
    picture = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    picture.putdata([0, 1, 2])
    picture.putpalette([9, 9, 9, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / "a.png")
    assert read_labels(tmp_path / "a.png").tolist() == [[0, 1, 2]]


@pytest.mark.parametrize(
    "values, options, expected",
    [
        ([0, 255], {}, [0, 1]),
        ([0, 255], {"binary": False}, [0, 255]),
        ([255, 255], {"binary": True}, [1, 1]),
        ([0, 0], {"binary": True}, [0, 0]),
        ([0, 255, 7], {"void": 7}, [0, 1, IGNORE]),
        ([0, 255], {"void": 255}, [0, IGNORE]),  # void first: what is left is class 0
        ([0, 1, 255], {}, [0, 1, 255]),  # 255 is a class where there are others
        ([0, 1], {}, [0, 1]),
        ([5, 5], {"void": 5}, [IGNORE, IGNORE]),  # void throughout
    ],
)
def test_binary_maps_and_void(tmp_path, values, options, expected):
    path = saved(tmp_path / "a.png", np.array([values], np.uint8))
    assert read_labels(path, **options).tolist() == [expected]


def test_a_map_said_to_be_binary_has_to_be(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 3, 255]], np.uint8))
    with pytest.raises(UserError, match="value 3 in a binary label map"):
        read_labels(path, binary=True)


def test_bilevel_and_sixteen_bit_and_array_label_maps(tmp_path):
    assert read_labels(saved(tmp_path / "a.png", np.array([[True, False]]))).tolist() == [[1, 0]]
    path = saved(tmp_path / "b.png", np.array([[0, 300]], np.uint16))
    assert read_labels(path).tolist() == [[0, 300]]
    np.save(tmp_path / "c.npy", np.array([[2, -1], [0, 1]], np.int32))
    assert read_labels(tmp_path / "c.npy", -1).tolist() == [[2, IGNORE], [0, 1]]
    with pytest.raises(UserError, match="class -1 is negative"):
        read_labels(tmp_path / "c.npy")


def test_grey_saved_as_colours_is_still_an_index(tmp_path):
    grey = np.array([[0, 4]], np.uint8)
    path = saved(tmp_path / "a.png", np.repeat(grey[..., None], 3, -1))
    assert read_labels(path).tolist() == [[0, 4]]


@pytest.mark.parametrize(
    "name, array, said",
    [
        ("a.png", np.array([[[128, 0, 0], [0, 0, 0]]], np.uint8), "classes are coded as colours"),
        ("a.jpg", np.zeros((8, 8), np.uint8), "lossy"),
        ("a.tif", np.ones((2, 2), np.float32), "cannot be of mode F"),
    ],
)
def test_label_maps_that_are_refused(tmp_path, name, array, said):
    path = saved(tmp_path / name, array)
    with pytest.raises(UserError, match=said) as caught:
        read_labels(path)
    assert one_line(caught).startswith(str(path))


def test_depth_is_in_metres_and_zero_where_unknown(tmp_path):
    units = np.array([[0, 1, 2500], [65535, 65534, 40000]], np.uint16)
    depth = read_depth(saved(tmp_path / "a.png", units), 0.001)
    assert depth.dtype == torch.float32
    expected = torch.tensor([[0, 0.001, 2.5], [0, 65.534, 40.0]])
    torch.testing.assert_close(depth, expected, rtol=0, atol=1e-6)
    torch.testing.assert_close(
        read_depth(tmp_path / "a.png", 1 / 256)[0], torch.tensor([0, 1 / 256, 2500 / 256])
    )


def test_depth_in_arrays(tmp_path):
    metres = np.array([[1.5, 0, -1], [np.nan, np.inf, 2.25]])
    np.save(tmp_path / "a.npy", metres)
    # floats are metres whatever the scale
    assert read_depth(tmp_path / "a.npy", 0.001).tolist() == [[1.5, 0, 0], [0, 0, 2.25]]
    np.save(tmp_path / "b.npy", np.array([[0, 1500]], np.int32))
    torch.testing.assert_close(read_depth(tmp_path / "b.npy", 0.01), torch.tensor([[0, 15.0]]))
    saved(tmp_path / "c.tif", np.array([[0.5, np.nan]], np.float32))
    assert read_depth(tmp_path / "c.tif").tolist() == [[0.5, 0]]


def test_depth_that_is_refused(tmp_path):
    path = saved(tmp_path / "a.png", np.array([[0, 200]], np.uint8))
    with pytest.raises(UserError, match="not measured depth"):
        read_depth(path)
    np.save(tmp_path / "b.npy", np.zeros((2, 3, 4)))
    with pytest.raises(UserError, match=r"shape \(2, 3, 4\)"):
        read_depth(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", np.zeros((2, 3), bool))
    with pytest.raises(UserError, match="has to be numbers"):
        read_depth(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", np.array([["a"]], object), allow_pickle=True)
    (tmp_path / "e.npy").write_bytes((tmp_path / "b.npy").read_bytes()[:60])
    for name in ("d.npy", "e.npy"):
        with pytest.raises(UserError, match=r"no \.npy array") as caught:
            read_depth(tmp_path / name)
        one_line(caught)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_depth_scale_is_positive(tmp_path, scale):
    path = saved(tmp_path / "a.png", np.array([[1]], np.uint16))
    with pytest.raises(UserError, match="--depth-scale"):
        read_depth(path, scale)


def test_sizes_come_from_the_head(tmp_path):
    path = saved(tmp_path / "a.png", np.zeros((30, 20), np.uint8))
    data = path.read_bytes()
    path.write_bytes(data[:50])  # enough for the size, not for the pixels
    assert picture_size(path) == (30, 20)
    np.save(tmp_path / "b.npy", np.zeros((4, 5)))
    assert picture_size(tmp_path / "b.npy") == (4, 5)
