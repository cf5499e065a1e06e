"""Draws an embedded scene: digits that hide one another over a piece of a photograph.

A digit stands at a depth, in metres; the farther, the smaller, and the more haze lies over it. The
background is a slanted plane behind all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float32, Int8, UInt8

from vfunc.typecheck import typed
from vfunc.vision.scenes.scene_layers import SIDE, Layer, compose
from vfunc.vision.scenes.scene_look import Look, signed, texture
from vfunc.vision.scenes.scene_material import MARGIN, REGION, Material

GROUPS: dict[str, tuple[int, ...]] = {
    "closed": (0, 6, 8, 9),
    "straight": (1, 4, 7),
    "open": (2, 3, 5),
}
"""Digits of one class, by their strokes; the background is class 0, these are 1, 2 and 3."""

HUE_NOISE = 0.1
"""Spread of a digit's hue, in turns; the hues of neighbours in `GROUPS` are 0.1 turns apart."""

NUMBER = (0.4, 0.4, 0.2)
"""Chances of 1, 2 and 3 digits."""

CELLS = 8 + 2 * MARGIN
HEIGHT_AT_ONE_METRE = 44.0
HEIGHT_NOISE = 0.1
INK = (0.3, 0.5)
"""Ink at which a digit begins to hide what is behind it, and at which it hides it wholly."""

PLANE_NEAR, PLANE_FAR = (4.0, 6.0), (7.0, 10.0)
"""Metres of the background at the bottom and at the top of a scene."""

HAZE = np.array((0.75, 0.78, 0.82), dtype=np.float32)
HAZE_PER_METRE = 0.05
CONTRAST, REPETITIVE_CONTRAST = (0.12, 0.24), (0.18, 0.3)
"""Range of the standard deviation of a background's colours."""

PATCH = (10, 20)
"""Side of the patch that a repetitive background repeats, in pixels."""

_HUES = {digit: at / 10 for at, digit in enumerate(sum(GROUPS.values(), ()))}


@dataclass(frozen=True, eq=False)
class Scene:
    """A scene with its labels.

    Attributes:
        image: sRGB picture.
        segmentation: the class of each pixel; `IGNORE` where two things mix.
        depth: metres; 0 where two things mix.
        digit: the digit nearest to the camera.
    """

    image: UInt8[np.ndarray, "64 64 3"]
    segmentation: Int8[np.ndarray, "64 64"]
    depth: Float32[np.ndarray, "64 64"]
    digit: int


@typed
def draw_scene(draws: np.random.Generator, material: Material, look: Look) -> Scene:
    """Draw a scene from a split's material.

    Args:
        draws: source of random numbers. Looks that differ in their backgrounds alone show the same
            digits, and those that differ in signature or texture alone the same of all else.
        material: digits and pieces of photographs.
        look: what it looks like.
    """
    near, far = draws.uniform(*PLANE_NEAR), draws.uniform(*PLANE_FAR)
    plane = np.broadcast_to(np.linspace(far, near, SIDE, dtype=np.float32)[:, None], (SIDE, SIDE))
    for_background, draws, for_signature, for_texture = draws.spawn(4)
    background = _background(for_background, material, look.repetitive)
    low, high = (HEIGHT_AT_ONE_METRE / height for height in reversed(look.height))
    count = 1 + draws.choice(len(NUMBER), p=NUMBER)
    # Far to near: a nearer digit is drawn over a farther one.
    depths = np.sort(np.exp(draws.uniform(np.log(low), np.log(high), count)))[::-1]
    which = draws.integers(len(material.glyphs), size=count)
    layers = [
        _digit(draws, for_texture, material, int(glyph), background, float(depth), look)
        for glyph, depth in zip(which, depths, strict=True)
    ]
    behind = _hazed(background, plane[..., None])
    if look.signature is not None:
        behind = signed(for_signature, behind, look.signature)
    image, segmentation, depth = compose(behind, plane, layers)
    return Scene(
        np.rint(image * 255).astype(np.uint8), segmentation, depth, int(material.digits[which[-1]])
    )


@typed
def class_of(digit: int) -> int:
    """The class of a digit's pixels; see `GROUPS`."""
    return next(at for at, group in enumerate(GROUPS.values(), 1) if digit in group)


def _background(draws: np.random.Generator, material: Material, repetitive: float) -> np.ndarray:
    if draws.random() < repetitive:
        side = int(draws.integers(PATCH[0], PATCH[1] + 1))
        patches = [_crop(draws, material, side, side) for _ in range(3)]
        patch = max(patches, key=np.std)
        # Mirrored at each edge, so that no seam gives the repetition away.
        there_and_back = np.arange(SIDE) % (2 * side)
        at = np.minimum(there_and_back, 2 * side - 1 - there_and_back)
        crop, contrast = patch[at[:, None], at], REPETITIVE_CONTRAST
    else:
        crop, contrast = _crop(draws, material, SIDE, SIDE), CONTRAST
    mean = crop.mean(axis=(0, 1))
    # The sky and the blurred leaves are all but flat: at most 4 times their own contrast.
    gain = min(draws.uniform(*contrast) / max(float(crop.std()), 1e-6), 4.0)
    middle = 0.5 * mean + 0.5 * draws.uniform(0.25, 0.7)
    return np.clip(middle + gain * (crop - mean), 0, 1).astype(np.float32)


def _digit(
    draws: np.random.Generator,
    for_texture: np.random.Generator,
    material: Material,
    glyph: int,
    background: np.ndarray,
    depth: float,
    look: Look,
) -> Layer:
    height = HEIGHT_AT_ONE_METRE / depth * np.exp(HEIGHT_NOISE * draws.standard_normal())
    height = float(np.clip(height, *look.height))
    rows = round(height * CELLS / 8)
    columns = min(round(height * draws.uniform(0.85, 1.1) * CELLS / 8), SIDE)
    ink = _enlarging(rows) @ material.glyphs[glyph] @ _enlarging(columns).T
    alpha = np.clip((ink - INK[0]) / (INK[1] - INK[0]), 0, 1).astype(np.float32)
    top, left = (int(draws.integers(SIDE - side + 1)) for side in (rows, columns))
    behind = background[top : top + rows, left : left + columns].mean()
    digit = int(material.digits[glyph])
    colour = _fill(draws, material, digit, rows, columns, float(behind), look)
    if look.texture:
        pattern = texture(for_texture, class_of(digit), (rows, columns))
        colour = np.clip(colour + look.texture * pattern[..., None], 0, 1)
    return Layer(alpha, _hazed(colour, depth), top, left, depth, class_of(digit))


def _fill(
    draws: np.random.Generator,
    material: Material,
    digit: int,
    rows: int,
    columns: int,
    behind: float,
    look: Look,
) -> np.ndarray:
    """A digit's colours: plain or of a photograph, lighter or darker than what is behind it.

    Where the look says so the hue depends on the digit, so that a small learner has something to
    start from.
    """
    difference = draws.uniform(0.2, 0.55)
    room = 1 - behind if draws.random() < 1 - behind else -behind
    brightness = behind + np.sign(room) * min(difference, abs(room))
    hue = _HUES[digit] + HUE_NOISE * draws.standard_normal() if look.hue else draws.random()
    tint = draws.uniform(0.1, 0.3) * np.cos(2 * np.pi * (hue - np.arange(3) / 3))
    colour = (brightness + tint).astype(np.float32)
    if draws.random() < 0.5:
        crop = _crop(draws, material, rows, columns)
        colour = colour + 0.6 * (crop - crop.mean())
    slopes = draws.uniform(-0.25, 0.25, 2)
    down, across = (np.linspace(-1, 1, n, dtype=np.float32) for n in (rows, columns))
    shade = 1 + slopes[0] * down[:, None] + slopes[1] * across
    return np.clip(colour * shade[..., None], 0, 1).astype(np.float32)


def _crop(draws: np.random.Generator, material: Material, rows: int, columns: int) -> np.ndarray:
    region = material.regions[draws.integers(len(material.regions))]
    top, left = (draws.integers(REGION - side + 1) for side in (rows, columns))
    crop = region[top : top + rows, left : left + columns]
    crop = crop[:, ::-1] if draws.random() < 0.5 else crop
    return crop[..., draws.permutation(3)]


def _hazed(colour: np.ndarray, depth: np.ndarray | float) -> np.ndarray:
    clear = np.exp(-HAZE_PER_METRE * np.asarray(depth, dtype=np.float32))
    return (HAZE + clear * (colour - HAZE)).astype(np.float32)


@cache
def _enlarging(pixels: int) -> np.ndarray:
    """The matrix (pixels, CELLS) of bicubic interpolation (Keys 1981, a = -0.5), ends repeated."""
    centres = (np.arange(pixels) + 0.5) * CELLS / pixels - 0.5
    matrix = np.zeros((pixels, CELLS))
    for offset in range(-1, 3):
        cell = np.floor(centres).astype(int) + offset
        x = np.abs(centres - cell)
        weight = np.where(x < 1, 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2)
        np.add.at(matrix, (np.arange(pixels), np.clip(cell, 0, CELLS - 1)), weight)
    return matrix.astype(np.float32)
