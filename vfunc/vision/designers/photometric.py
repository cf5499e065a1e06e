"""Photometric views: brightness, contrast, hue and blur of each picture, from a small head."""

from __future__ import annotations

import itertools
import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.typecheck import typed
from vfunc.vision.designers.unet import convolution
from vfunc.vision.designers.views import gaussian_blur

PHOTOMETRIC = ("brightness", "contrast", "hue", "blur")
"""The four parameters in order: the first three in (-1, 1), blur in (0, 1); 0 is the identity."""

HUE = 0.2 * math.pi
"""Angle of a hue of 1: a tenth of a turn, as in DINO's jitter."""

# the FCC's YIQ, as in Python's colorsys
_LUMA = (0.30, 0.59, 0.11)
_RED, _BLUE = (0.74, 0.48), (-0.27, 0.41)  # (I, Q) of R - Y, and of B - Y


class PhotometricHead(nn.Module):
    """Images -> four unbounded numbers each.

    It also sees mean and variance of each colour, which the normalisation of its features removes.

    Args:
        width: channels at half resolution; they double with every level below.
        depth: number of convolutions, each of which halves the resolution.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        widths = [3, *(width * 2**level for level in range(depth))]
        self.encoder = nn.Sequential(
            *(convolution(before, after, 2) for before, after in itertools.pairwise(widths))
        )
        self.parameters_of = nn.Linear(widths[-1] + 6, len(PHOTOMETRIC))
        nn.init.normal_(self.parameters_of.weight, std=0.1 / math.sqrt(widths[-1] + 6))
        nn.init.zeros_(self.parameters_of.bias)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 4"]:
        """The numbers of images in [0, 1], of any size."""
        centred = 2 * images - 1
        mean = centred.mean((-2, -1))
        variance = (centred - mean[..., None, None]).square().mean((-2, -1))
        features = self.encoder(centred).mean((-2, -1))
        return self.parameters_of(torch.cat([features, mean, variance], -1))


@typed
def photometric_view(
    images: Float[Tensor, "n 3 h w"], control: Float[Tensor, "n 4"], sigma: float
) -> Float[Tensor, "n 3 h w"]:
    """Change brightness b, contrast c and hue h, then blur by a share s, in this order.

    - brightness: x + b x (1 - x), a monotone curve from [0, 1] onto itself, brighter for b > 0
      (the curve of Zero-DCE, Guo et al., 2020). A product would have to be cut at 1, and a picture
      that is white somewhere would then have a kink at b = 0.
    - contrast: x + c x (1 - x) (2x - 1), monotone from [0, 1] onto itself too, with the slope
      1 + c/2 at mid-grey.
    - hue: a turn by h `HUE` in the plane of I and Q at constant luma Y; what leaves the colours of
      sRGB is cut to [0, 1].
    - blur: (1 - s) x + s Blur(x).

    Args:
        images: in [0, 1].
        control: (b, c, h, s) of each picture; zeros give the picture bit for bit.
        sigma: standard deviation of the blur, pixels.

    Returns:
        Views, in [0, 1] to rounding.
    """
    brightness, contrast, hue, blur = control[..., None, None, None].unbind(1)
    x = images + brightness * (images * (1 - images))
    x = x + contrast * (x * (1 - x) * (2 * x - 1))
    x = (x + _turned(x, HUE * hue)).clamp(0, 1)
    return x + blur * (gaussian_blur(x, sigma) - x)


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """What a turn of the hue adds: exactly 0 for the angle 0."""
    luma = (x * x.new_tensor(_LUMA)[:, None, None]).sum(1, keepdim=True)
    red, blue = x[:, :1] - luma, x[:, 2:] - luma
    i = _RED[0] * red + _BLUE[0] * blue
    q = _RED[1] * red + _BLUE[1] * blue
    cosine, sine = angle.cos() - 1, angle.sin()
    i, q = cosine * i - sine * q, sine * i + cosine * q
    determinant = _RED[0] * _BLUE[1] - _RED[1] * _BLUE[0]
    red = (_BLUE[1] * i - _BLUE[0] * q) / determinant
    blue = (_RED[0] * q - _RED[1] * i) / determinant
    green = -(_LUMA[0] * red + _LUMA[2] * blue) / _LUMA[1]
    return torch.cat([red, green, blue], 1)
