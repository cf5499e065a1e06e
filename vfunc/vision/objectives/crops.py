"""Cuts and colours random crops of pictures, which the objectives compare.

Parameters are sampled from the generator alone, for all crops at once; colours are changed for all
crops at once too, each with its own parameters, which costs a third of torchvision's transforms
called crop by crop. Each change is torchvision's own (`transforms.v2.functional`) on that crop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.objectives.colours import blurred, jittered, solarised, to_grey
from vfunc.vision.objectives.recipes import Recipe

ASPECT = (3 / 4, 4 / 3)
"""Range of a crop's width over height, as in torchvision."""
TRIES = 10
"""Attempts to fit a crop, as in torchvision."""


@typed
def cut(
    pictures: Sequence[Tensor], recipes: Sequence[Recipe], generator: torch.Generator
) -> Float[Tensor, "v b 3 s s"]:
    """Cut and colour crops of every picture, one by each recipe.

    Args:
        pictures: uint8 (3, h, w), of any sizes.
        recipes: recipes of crops of one size and interpolation.
        generator: source of random numbers, on the CPU.

    Returns:
        Crops in [0, 1], float32.

    Raises:
        UserError: something that is no picture of three uint8 channels.
    """
    first = recipes[0]
    if any((r.size, r.bicubic) != (first.size, first.bicubic) for r in recipes):
        raise ValueError("crops that are made at once have one size and one way of resizing")
    for i, picture in enumerate(pictures):
        if picture.dtype != torch.uint8 or picture.ndim != 3 or picture.shape[0] != 3:
            raise UserError(
                f"picture {i} of the batch is {picture.dtype} {tuple(picture.shape)}; crops are "
                "cut from uint8 pictures (3, height, width)"
            )
        if not picture.numel():
            raise UserError(f"picture {i} of the batch is empty: {tuple(picture.shape)}")
    how = InterpolationMode.BICUBIC if first.bicubic else InterpolationMode.BILINEAR
    x = _cut(pictures, _boxes(pictures, recipes, generator), first.size, how)
    flat = [recipe for recipe in recipes for _ in pictures]
    return _coloured(x, flat, generator).unflatten(0, (len(recipes), len(pictures)))


@typed
def cut_masks(
    masks: Sequence[Tensor], recipes: Sequence[Recipe], generator: torch.Generator
) -> Float[Tensor, "v b 1 s s"]:
    """Cut masks as `cut` cuts the pictures that they belong to: the same boxes, the same flips.

    Args:
        masks: uint8 (1, h, w), of the sizes of the pictures.
        recipes: those of the pictures' crops.
        generator: as it stood before the pictures were cut.

    Returns:
        Masks in [0, 1], float32; between pixels by bilinear interpolation.
    """
    boxes = _boxes(masks, recipes, generator)
    x = _cut(masks, boxes, recipes[0].size, InterpolationMode.BILINEAR)
    flip = _flips([recipe for recipe in recipes for _ in masks], generator)
    x[flip] = x[flip].flip(-1)
    return x.unflatten(0, (len(recipes), len(masks)))


def _cut(pictures: Sequence[Tensor], boxes: Tensor, size: int, how: InterpolationMode) -> Tensor:
    """The boxes of the pictures, all brought to one size: in [0, 1], crop after crop."""
    crops = [
        tv.resized_crop(picture, top, left, height, width, [size] * 2, how, antialias=True)
        for row in boxes.tolist()
        for picture, (top, left, height, width) in zip(pictures, row, strict=True)
    ]
    return torch.stack(crops).float() / 255


def _flips(recipes: Sequence[Recipe], generator: torch.Generator) -> Tensor:
    """Which crops are flipped: what is drawn first after their boxes."""
    chance = torch.tensor([recipe.flip for recipe in recipes])
    return torch.rand(len(recipes), generator=generator) < chance


def _coloured(x: Tensor, recipes: Sequence[Recipe], generator: torch.Generator) -> Tensor:
    """Colour crops by DINO's changes in DINO's order; one recipe a crop."""
    count = len(recipes)

    def uniform(low: list[float], high: list[float]) -> Tensor:
        share = torch.rand(count, generator=generator)
        return torch.tensor(low).lerp(torch.tensor(high), share)

    def chosen(name: str) -> Tensor:
        chance = torch.tensor([getattr(recipe, name) for recipe in recipes])
        return torch.rand(count, generator=generator) < chance

    def around(middle: float, name: str) -> Tensor:
        half = [getattr(recipe, name) for recipe in recipes]
        return uniform([middle - h for h in half], [middle + h for h in half])

    def change(at: Tensor, to: Tensor) -> None:
        x[at] = to

    flip = _flips(recipes, generator)
    change(flip, x[flip].flip(-1))
    at = chosen("jitter")
    order = torch.rand(count, 4, generator=generator).argsort(-1)
    factors = torch.stack(
        [
            around(1.0, "brightness"),
            around(1.0, "contrast"),
            around(1.0, "saturation"),
            around(0.0, "hue"),
        ]
    )
    change(at, jittered(x[at], factors[:, at], order[at]))
    at = chosen("grey")
    change(at, to_grey(x[at]))
    at = chosen("blur")
    sigma = uniform([r.sigma[0] for r in recipes], [r.sigma[1] for r in recipes])
    change(at, blurred(x[at], sigma[at]))
    at = chosen("solarise")
    change(at, solarised(x[at]))
    return x


def _boxes(
    pictures: Sequence[Tensor], recipes: Sequence[Recipe], generator: torch.Generator
) -> Tensor:
    """(top, left, height, width) of each crop, sampled as torchvision's RandomResizedCrop does.

    The first of ten draws of area and aspect that fits; else the largest centred box.
    """
    sizes = torch.tensor([picture.shape[1:] for picture in pictures], dtype=torch.float64)
    high, wide = (side[None, :, None] for side in sizes.unbind(1))
    scale = torch.tensor([recipe.scale for recipe in recipes], dtype=torch.float64)
    low, top = (end[:, None, None] for end in scale.unbind(1))
    area, aspect, y, x = torch.rand(
        4, len(recipes), len(pictures), TRIES, generator=generator, dtype=torch.float64
    )
    area = (low + (top - low) * area) * high * wide
    aspect = (math.log(ASPECT[0]) + math.log(ASPECT[1] / ASPECT[0]) * aspect).exp()
    w, h = (area * aspect).sqrt().round(), (area / aspect).sqrt().round()
    fits = (w >= 1) & (w <= wide) & (h >= 1) & (h <= high)
    # the fallback, as one more draw that always fits
    limit_w, limit_h = (ASPECT[1] * high).round(), (wide / ASPECT[0]).round()
    all_w = torch.minimum(wide, limit_w.clamp(min=1)).expand_as(w[..., :1])
    all_h = torch.minimum(high, limit_h.clamp(min=1)).expand_as(h[..., :1])
    w, h = torch.cat([w, all_w], -1), torch.cat([h, all_h], -1)
    middle = torch.full_like(all_w, 0.5)
    y, x = torch.cat([y, middle], -1), torch.cat([x, middle], -1)
    fits = torch.cat([fits, torch.ones_like(fits[..., :1])], -1)
    first = fits.to(torch.uint8).argmax(-1, keepdim=True)
    h, w, y, x = (t.gather(-1, first).squeeze(-1) for t in (h, w, y, x))
    down = (y * (high[..., 0] - h + 1)).floor().clamp(max=high[..., 0] - h)
    right = (x * (wide[..., 0] - w + 1)).floor().clamp(max=wide[..., 0] - w)
    return torch.stack([down, right, h, w], -1).long()
