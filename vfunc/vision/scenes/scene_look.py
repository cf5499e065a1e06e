"""What the scenes of an embedded problem look like, beyond digits over pieces of photographs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from vfunc.errors import UserError
from vfunc.typecheck import typed

HEIGHT = (22.0, 44.0)
"""Pixels of the smallest and the largest digit, where a look says nothing else."""

TEXTURE = 0.0
"""Amplitude of the digits' texture where none is asked for."""

TEXTURE_PERIOD = (3.5, 5.0)
"""Range of the period of a digit's texture, in pixels: a blur of 3 pixels leaves none of it."""

CONTRASTED = math.sqrt(3)
"""Length of a signature's colour: that of a change of all three channels by one."""


@dataclass(frozen=True)
class Signature:
    """A grating over a picture's background, by which its crops can be matched without its objects.

    Each picture has its own direction, period, phase and colour, and all of its crops share them:
    the kind of cue by which contrastive learning falls short of the content (Chen, Luo and Li 2021,
    arXiv 2011.02803; Robinson et al. 2021, arXiv 2106.11230). In life it is a sensor's pattern, a
    watermark, what compression leaves.

    Attributes:
        amplitude: of the sine, in units of the range of colours.
        period: range of the period, in pixels.
    """

    amplitude: float = 0.3
    period: tuple[float, float] = (3.0, 4.5)

    def __post_init__(self) -> None:
        low, high = self.period
        if not 0 < self.amplitude <= 1:
            raise UserError(
                f"a signature's amplitude is above 0 and at most 1, not {self.amplitude}"
            )
        if not 2 <= low <= high:
            raise UserError(
                f"a signature's period goes from at least 2 pixels upwards, not from {low:g} to "
                f"{high:g}: below 2 a picture cannot hold it"
            )


@dataclass(frozen=True)
class Look:
    """The look of one split's scenes.

    Attributes:
        repetitive: chance that the background is one small patch repeated. Every crop of such a
            scene shows it, whatever digits it shows.
        signature: what each picture's background carries; None is nothing.
        texture: amplitude of a fine texture on digits that tells their class; 0 is none.
        height: pixels of the smallest and the largest digit.
        hue: whether a digit's hue tells which it is; else it is drawn without regard to it.
        shared_photographs: whether backgrounds are of all pieces of photographs, and not of the
            split's own alone.
    """

    repetitive: float = 0.0
    signature: Signature | None = None
    texture: float = 0.0
    height: tuple[float, float] = HEIGHT
    hue: bool = True
    shared_photographs: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.repetitive <= 1:
            raise UserError(
                f"repetitive={self.repetitive} is not a share; give a number from 0 to 1"
            )
        if not 0 <= self.texture <= 1:
            raise UserError(f"the digits' texture goes from 0 to 1, not {self.texture}")


PLAIN = Look()
"""Digits over pieces of photographs, and nothing else."""


@typed
def signed(
    draws: np.random.Generator, background: Float32[np.ndarray, "h w 3"], signature: Signature
) -> Float32[np.ndarray, "h w 3"]:
    """A background with a signature of its own: a c sin(2 pi (x cos t + y sin t) / P + p), clipped.

    Args:
        draws: source of t in (0, pi), P in the signature's range, p, and c, a direction among
            colours of length sqrt 3.
        background: colours in [0, 1].
        signature: the amplitude a, and the range of P.
    """
    wave = _wave(draws, background.shape[:2], (0.0, math.pi), signature.period)
    colour = draws.standard_normal(3)
    colour *= CONTRASTED / np.linalg.norm(colour)
    change = signature.amplitude * wave[..., None] * colour
    return np.clip(background + change, 0, 1).astype(np.float32)


@typed
def texture(
    draws: np.random.Generator, category: int, shape: tuple[int, int]
) -> Float32[np.ndarray, "h w"]:
    """A fine pattern in [-1, 1] that tells a class, whatever its phase and period.

    Class 1 has stripes across, class 2 stripes down, class 3 both; a picture's mirror image has
    the same.

    Args:
        draws: source of phases and periods.
        category: the class, 1 to 3.
        shape: rows and columns.
    """
    down = _wave(draws, shape, (math.pi / 2, math.pi / 2), TEXTURE_PERIOD)
    across = _wave(draws, shape, (0.0, 0.0), TEXTURE_PERIOD)
    return {1: down, 2: across, 3: down * across * math.sqrt(2)}[category].clip(-1, 1)


def _wave(
    draws: np.random.Generator,
    shape: tuple[int, int],
    angles: tuple[float, float],
    periods: tuple[float, float],
) -> np.ndarray:
    """A plane wave of random direction, period and phase within these ranges."""
    angle, period = draws.uniform(*angles), draws.uniform(*periods)
    phase = draws.uniform(0, 2 * math.pi)
    y, x = np.mgrid[: shape[0], : shape[1]]
    along = x * math.cos(angle) + y * math.sin(angle)
    return np.sin(2 * math.pi * along / period + phase).astype(np.float32)
