"""Changes colour and sharpness of many small pictures at once, each with its own parameters.

The formulas are torchvision's (`transforms.v2.functional`), which takes one parameter a call.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from kornia.color import hsv_to_rgb, rgb_to_hsv
from kornia.filters import gaussian_blur2d
from torch import Tensor

Pictures = Float[Tensor, "n 3 h w"]
Each = Float[Tensor, " n"]


def to_grey(x: Pictures) -> Pictures:
    """Luma (ITU-R 601-2) in all three channels."""
    return _luma(x).expand_as(x)


def solarised(x: Pictures) -> Pictures:
    """Values from 128 of 255 up, inverted."""
    return torch.where(x >= 128 / 255, 1 - x, x)


def brightened(x: Pictures, factor: Each) -> Pictures:
    """Blend with black: 0 is black, 1 the picture."""
    return _blend(x, torch.zeros_like(x), factor)


def contrasted(x: Pictures, factor: Each) -> Pictures:
    """Blend with the picture's mean luma."""
    return _blend(x, _luma(x).mean((-1, -2), keepdim=True), factor)


def saturated(x: Pictures, factor: Each) -> Pictures:
    """Blend with the grey picture."""
    return _blend(x, _luma(x), factor)


def hue_turned(x: Pictures, turns: Each) -> Pictures:
    """Turn the hue by so much of the colour circle."""
    h, s, v = rgb_to_hsv(x).unbind(1)
    h = (h + 2 * torch.pi * _each(turns)[:, 0]).remainder(2 * torch.pi)
    return hsv_to_rgb(torch.stack([h, s, v], 1)).clamp(0, 1)


def jittered(x: Pictures, factors: Float[Tensor, "4 n"], order: Int[Tensor, "n 4"]) -> Pictures:
    """Brightness, contrast, saturation and hue, each picture in its own order.

    Args:
        x: pictures.
        factors: factors of the four changes.
        order: order of the changes in each picture.

    Returns:
        The changed pictures.
    """
    changes: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
        brightened,
        contrasted,
        saturated,
        hue_turned,
    )
    for place in order.T:
        changed = torch.empty_like(x)
        for which, change in enumerate(changes):
            at = place == which
            changed[at] = change(x[at], factors[which, at])
        x = changed
    return x


def blurred(x: Pictures, sigma: Each) -> Pictures:
    """Gaussian blur, standard deviation in pixels, reflected at the edges."""
    if not len(x):
        return x
    radius = max(1, int((3 * sigma.max()).ceil()))
    # reflection needs more pixels than the kernel reaches over
    radius = min(radius, x.shape[-1] - 1, x.shape[-2] - 1)
    return gaussian_blur2d(x, 2 * radius + 1, sigma[:, None].expand(-1, 2)) if radius else x


def _luma(x: Tensor) -> Tensor:
    r, g, b = x.unbind(-3)
    return (0.2989 * r + 0.587 * g + 0.114 * b).unsqueeze(-3)


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    share = _each(factor)
    return (share * x + (1 - share) * other).clamp(0, 1)


def _each(factor: Tensor) -> Tensor:
    return factor[:, None, None, None]
