"""Small U-Net: one logit of mu for every pixel."""

from __future__ import annotations

import torch.nn.functional as F
from einops import repeat
from jaxtyping import Float
from torch import Tensor, nn

GROUPS = 4
"""Number of groups of a GroupNorm, a divisor of the width."""


def convolution(before: int, after: int, stride: int) -> nn.Sequential:
    """3 x 3 convolution, GroupNorm, GELU: right in every order of differentiation."""
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1), nn.GroupNorm(GROUPS, after), nn.GELU()
    )


class UNet(nn.Module):
    """Images -> logits, at any size that is a multiple of 2^depth.

    The picture itself is the skip connection at full resolution, where only two thin
    convolutions run: most of the work is at half resolution and below. Other skip connections
    are added rather than appended, which halves the cost of the convolution after them.

    Args:
        width: channels at half resolution; they double with every level below.
        depth: number of levels below full resolution.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth)]
        thin = max(width // 4, 4)
        self.down = nn.ModuleList(
            convolution(before, after, 2)
            for before, after in zip([3, *widths], widths, strict=False)
        )
        steps = list(zip(widths[1:], widths, strict=False))
        self.narrow = nn.ModuleList(nn.Conv2d(below, here, 1) for below, here in steps)
        self.up = nn.ModuleList(convolution(here, here, 1) for _, here in steps)
        self.coarse = nn.Conv2d(width, thin, 1)
        self.picture = nn.Conv2d(3, thin, 3, padding=1)
        self.logit = nn.Conv2d(thin, 1, 3, padding=1)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
        """The logits of images in [0, 1]."""
        centred = 2 * images - 1
        levels = [centred]
        for down in self.down:
            levels.append(down(levels[-1]))
        x = levels.pop()
        for narrow, up in zip(reversed(self.narrow), reversed(self.up), strict=True):
            x = up(_twice(narrow(x)) + levels.pop())
        return self.logit(F.gelu(_twice(self.coarse(x)) + self.picture(centred)))


def _twice(x: Tensor) -> Tensor:
    """Each pixel as 2 x 2 pixels."""
    return repeat(x, "n c h w -> n c (h a) (w b)", a=2, b=2)
