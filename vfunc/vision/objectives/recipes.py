"""Recipes of random crops, DINO's among them (Caron et al. 2021, and the authors' code)."""

from __future__ import annotations

from dataclasses import dataclass

from vfunc.errors import UserError


@dataclass(frozen=True)
class Recipe:
    """Recipe of a random crop: chances, and ranges of uniform distributions.

    Attributes:
        size: side of the crop, in pixels.
        scale: range of the crop's share of the picture's area.
        flip: chance of a left-right flip.
        jitter: chance of a colour jitter.
        brightness: factors 1 -+ this.
        contrast: factors 1 -+ this.
        saturation: factors 1 -+ this.
        hue: turns of the colour circle -+ this.
        grey: chance of grey.
        blur: chance of a Gaussian blur.
        sigma: range of its standard deviation, in pixels.
        solarise: chance that values from one half up are inverted.
        bicubic: whether it is resized bicubically, else bilinearly; antialiased either way.
    """

    size: int
    scale: tuple[float, float] = (0.3, 1.0)
    flip: float = 0.5
    jitter: float = 0.0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    grey: float = 0.0
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarise: float = 0.0
    bicubic: bool = False

    def __post_init__(self) -> None:
        low, high = self.scale
        if self.size < 1:
            raise UserError(f"a crop's side must be at least 1 pixel, not {self.size}")
        if not 0 < low <= high <= 1:
            raise UserError(f"a crop's scale must satisfy 0 < low <= high <= 1, not {self.scale}")
        if not 0 < self.sigma[0] <= self.sigma[1]:
            raise UserError(f"a blur's sigma must satisfy 0 < low <= high, not {self.sigma}")
        chances = (self.flip, self.jitter, self.grey, self.blur, self.solarise)
        if not all(0 <= chance <= 1 for chance in chances):
            raise UserError("a crop's chances must be between 0 and 1")
        factors = (self.brightness, self.contrast, self.saturation)
        if not all(0 <= f <= 1 for f in factors) or not 0 <= self.hue <= 0.5:
            raise UserError("a crop's colour jitter must be between 0 and 1, of hue 0 and 0.5")


def dino_recipes(
    globally: tuple[int, int, tuple[float, float]],
    locally: tuple[int, int, tuple[float, float]],
    colour: float,
) -> tuple[tuple[Recipe, ...], tuple[Recipe, ...]]:
    """DINO's recipes: the first global crop is always blurred, the second seldom, or solarised.

    The blur's range is the paper's for crops of 224 and 96 pixels, and as a share of the side the
    same at any other size.

    Args:
        globally: number, side and scale of the global crops.
        locally: number, side and scale of the local crops.
        colour: factor of the colour jitter's ranges.

    Returns:
        The recipes of the global crops, and of the local ones.
    """
    if not 0 <= colour <= 2.5:
        raise UserError(f"the colour jitter's strength must be between 0 and 2.5, not {colour}")

    def recipe(
        size: int, scale: tuple[float, float], paper: int, blur: float, solarise: float
    ) -> Recipe:
        return Recipe(
            size,
            scale,
            jitter=0.8,
            brightness=0.4 * colour,
            contrast=0.4 * colour,
            saturation=0.2 * colour,
            hue=0.1 * colour,
            grey=0.2,
            blur=blur,
            sigma=(0.1 * (size / paper), 2.0 * (size / paper)),
            solarise=solarise,
            bicubic=True,
        )

    count, size, scale = globally
    chances = [(1.0, 0.0)] + [(0.1, 0.2)] * (count - 1)
    first = tuple(recipe(size, scale, 224, *chance) for chance in chances)
    count, size, scale = locally
    return first, (recipe(size, scale, 96, 0.5, 0.0),) * count
