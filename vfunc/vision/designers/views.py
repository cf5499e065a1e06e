"""Makes views by a soft mask: the picture where mu = 1, its blur where mu = 0 (paper, 49)."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from vfunc.errors import UserError
from vfunc.trees import Scalar
from vfunc.typecheck import typed

Images = Float[Tensor, "n c h w"]
Mask = Float[Tensor, "n 1 h w"]

_SMOOTH = 1e-3  # below this a difference of mu counts by its square


@typed
def gaussian_blur(images: Images, sigma: float) -> Images:
    """Convolve with a Gaussian; the picture goes on beyond its edge as its mirror image.

    The mirror repeats the edge pixel (scipy's `reflect`): every row and column of weights then
    sums to 1, so that the mean of the picture stays, and a constant picture stays itself. It is
    two matrix products, not a padded convolution: any sigma fits any size, and the backward pass
    is deterministic on a GPU, where that of a padding is not.

    Args:
        images: pictures of any channels.
        sigma: standard deviation, pixels.

    Returns:
        Blurred images; they keep to the range of the images, to rounding.

    Raises:
        UserError: sigma is not positive.
    """
    if not (sigma > 0 and math.isfinite(sigma)):
        raise UserError(f"a blur needs a positive, finite sigma in pixels, not {sigma}")
    height, width = images.shape[-2:]
    rows, columns = _weights(height, sigma, images), _weights(width, sigma, images)
    return rows @ images @ columns.T


@typed
def masked_view(images: Images, mu: Mask, sigma: float) -> Images:
    """mu * v + (1 - mu) * Blur(v): the paper's view (49).

    Args:
        images: v, in [0, 1].
        mu: masks in [0, 1]; 1 keeps the picture bit for bit.
        sigma: standard deviation of the blur, pixels.

    Returns:
        Views, in [0, 1] to rounding; differentiable in both, to any order.
    """
    return images * mu + (1 - mu) * gaussian_blur(images, sigma)


@typed
def masked_crops(
    crops: Float[Tensor, "g b c h w"], mu: Float[Tensor, "g b 1 h w"], sigma: float
) -> Float[Tensor, "g b c h w"]:
    """The `masked_view` of g crops of b pictures each."""
    return masked_view(crops.flatten(0, 1), mu.flatten(0, 1), sigma).unflatten(0, crops.shape[:2])


@typed
def total_variation(mu: Mask) -> Scalar:
    """Mean difference of vertical neighbours, plus that of horizontal ones (paper, equation 54).

    The absolute value is Charbonnier's: sqrt(d^2 + e^2) - e with e = 1e-3. It is 0 for a constant
    mask, twice differentiable, and within e of abs(d).
    """
    return _charbonnier(mu.diff(dim=-2)).mean() + _charbonnier(mu.diff(dim=-1)).mean()


@typed
def off_keep_ratio(mu: Mask, keep: float) -> Scalar:
    """(mean of mu over a picture - keep)^2, mean over pictures: the paper's sparsity.

    Squared, since a picture whose mask is near the ratio should be left to its value.
    """
    return (mu.mean((-3, -2, -1)) - keep).square().mean()


def _charbonnier(d: Tensor) -> Tensor:
    square = d.square()  # the difference of the two roots as a quotient: exactly 0 at 0
    return square / ((square + _SMOOTH**2).sqrt() + _SMOOTH)


def _weights(size: int, sigma: float, like: Tensor) -> Tensor:
    """W[i, j]: the share of pixel j, and of its mirror images, in blurred pixel i."""
    exact = torch.float64 if like.dtype == torch.float64 else torch.float32
    period = 2 * size  # of a picture that mirrors repeat without end
    periods = 1 + math.ceil(8 * sigma / period)  # beyond 8 sigma there is nothing
    shifts = period * torch.arange(-periods, periods + 1, device=like.device)
    place = torch.arange(period, device=like.device)
    distances = (place - shifts[:, None]).to(exact) / sigma
    weight = (-distances.square() / 2).exp().sum(0)
    weight = (weight / weight.sum()).to(like.dtype)
    here, there = place[:size, None], place[:size]
    return weight[(here - there) % period] + weight[here + there + 1]
