"""The task designer of vision: it decides what of each picture the learner gets to see."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from einops import reduce, repeat
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.conditions import EMBEDDED_LEARNER, SHORTCUT
from vfunc.config.declared import By, Cases, Need, option
from vfunc.designer_file import read_designer
from vfunc.errors import UserError
from vfunc.trees import Scalar
from vfunc.typecheck import typed
from vfunc.vision.conditions import BLURRED, MASKS
from vfunc.vision.designers.dit import PatchTransformer
from vfunc.vision.designers.photometric import PHOTOMETRIC, PhotometricHead, photometric_view
from vfunc.vision.designers.unet import GROUPS, UNet
from vfunc.vision.designers.views import masked_view, off_keep_ratio, total_variation

Images = Float[Tensor, "n 3 h w"]
Control = Float[Tensor, "n ..."]
"""What a designer decides: mu (n, 1, h, w), or four photometric parameters (n, 4)."""

Kind = Literal["unet", "dit", "photometric"]

_BOUND = 5.0  # a logit of mu stays within +-: a mask can neither die at 0 nor stick at 1


@dataclass(frozen=True)
class ViewDesignerConfig:
    """Size and surface of a `ViewDesigner`.

    Attributes:
        kind: `unet` and `dit` make soft masks mu, by pixels and by patches; `photometric` four
            parameters a picture.
        width: channels at half resolution (a multiple of 4), or of the transformer's stream.
        depth: levels below full resolution, or attention blocks.
        heads: `dit`: attention heads; they divide the width.
        patch: `dit`: side of the patches that it sees and answers for, pixels.
        block: masks: mu is constant over blocks of this side, in pixels, as soft weights of
            I-JEPA's patches; None for none.
        keep: masks: the ratio that `sparsity` holds the mean of mu near.
        blur: sigma of the blur, as a share of the shorter side. At 0.05 texture is gone, while
            what is larger than a tenth of the picture can still be made out.
        start: about the mean of mu at initialisation; for `photometric` 1 less the blur's share.
    """

    kind: Kind = option(
        "What the designer makes: a mask between picture and blurred picture, by a U-Net or a "
        "patchwise transformer; or brightness, contrast, hue and blur of the whole picture.",
        name="augmentor",
        default="unet",
    )
    width: int = option(
        "Channels at half resolution, or the transformer's hidden size.",
        name="designer_width",
        default=By(
            "augmentor",
            {
                "unet": Cases(((EMBEDDED_LEARNER, 8),), 32),
                "dit": Cases(((EMBEDDED_LEARNER, 48),), 192),
                "photometric": Cases(((EMBEDDED_LEARNER, 16),), 32),
            },
            plain=16,
        ),
        least=2,
        most=65536,
    )
    depth: int = option(
        "Of a U-Net the levels below full resolution, of a transformer its blocks, of a "
        "photometric head the convolutions.",
        name="designer_layers",
        default=By(
            "augmentor",
            {"unet": 3, "dit": Cases(((EMBEDDED_LEARNER, 2),), 4), "photometric": 3},
            plain=3,
        ),
        least=1,
        most=256,
    )
    heads: int = option(
        "Attention heads; they divide the width.",
        name="designer_heads",
        default=4,
        least=1,
        needs=(Need(lambda options: options["augmentor"] == "dit", "it is for --augmentor dit"),),
    )
    patch: int = option(default=8, hidden=True)
    block: int | None = option(default=None, hidden=True)
    keep: float = option(
        "Masks: the mean that --sparsity-penalty pulls them to; 1 keeps the whole picture.",
        default=0.6,
        above=0,
        most=1,
        needs=(
            MASKS,
            Need(
                lambda options: options["sparsity_penalty"] > 0,
                "nothing pulls masks to it; give --sparsity-penalty above 0",
            ),
        ),
    )
    blur: float = option(
        "Standard deviation of the blur, as a share of the picture's side.",
        default=Cases(((SHORTCUT, 0.1),), 0.05),
        above=0,
        most=1,
        needs=(BLURRED,),
    )
    start: float = option(default=0.9, hidden=True)

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(
                f"unknown designer of views {self.kind!r}; known: {', '.join(get_args(Kind))}"
            )
        sizes = (self.width, self.depth, self.heads, self.patch, self.block or 1)
        if min(sizes) < 1 or self.block == 0:
            raise UserError("the designer's width, depth, heads, patch and block must be positive")
        if self.width % GROUPS:
            raise UserError(f"the designer's width {self.width} must be a multiple of {GROUPS}")
        if self.kind == "dit" and self.width % self.heads:
            raise UserError(
                f"the designer's width {self.width} must be divisible by its {self.heads} heads"
            )
        if not self.masks and self.block is not None:
            raise UserError("a photometric designer has no mask, and so no `block`")
        if not 0 < self.keep <= 1:
            raise UserError(f"keep must be in (0, 1], not {self.keep}")
        if not (self.blur > 0 and math.isfinite(self.blur)):
            raise UserError(f"blur must be a positive share of the picture's side, not {self.blur}")
        if not 0.02 <= self.start <= 0.98:
            raise UserError(f"start must be in [0.02, 0.98], not {self.start}")

    @property
    def masks(self) -> bool:
        """Whether the control is a mask."""
        return self.kind != "photometric"

    @property
    def multiple(self) -> int:
        """What divides both sides of every picture that it takes."""
        cell = {"unet": 2**self.depth, "dit": self.patch, "photometric": 1}[self.kind]
        return math.lcm(cell, self.block or 1)


class ViewDesigner(nn.Module):
    """phi: images -> (views, control), each picture by itself.

    Pure: no random numbers, no state. It starts near the identity, with mu about `start`
    everywhere (or, photometric, parameters about 0). Run it in its parameters' own precision,
    outside autocast.
    """

    def __init__(self, config: ViewDesignerConfig) -> None:
        super().__init__()
        self.config = config
        start = math.log(config.start / (1 - config.start))
        raw_start = _BOUND * math.atanh(start / _BOUND)
        if config.kind == "photometric":
            head = PhotometricHead(config.width, config.depth)
            blur = torch.arange(len(PHOTOMETRIC)) == PHOTOMETRIC.index("blur")
            start_bias = torch.where(blur, -raw_start, 0.0)
            head.parameters_of.bias = nn.Parameter(start_bias)
            self.network: nn.Module = head
        else:
            masking = (
                UNet(config.width, config.depth)
                if config.kind == "unet"
                else PatchTransformer(config.width, config.depth, config.heads, config.patch)
            )
            nn.init.constant_(cast("Tensor", masking.logit.bias), raw_start)
            self.network = masking

    def forward(self, images: Images) -> tuple[Images, Control]:
        """Views of images in [0, 1], and the control that made them.

        Raises:
            UserError: a side of the images is not a multiple of `config.multiple`.
        """
        control = self.control(images)
        return apply_control(self.config, images, control), control

    def control(self, images: Images) -> Control:
        """Masks mu in (0, 1), or photometric parameters in `PHOTOMETRIC`'s ranges.

        Raises:
            UserError: a side of the images is not a multiple of `config.multiple`.
        """
        config = self.config
        height, width = images.shape[-2:]
        if height % config.multiple or width % config.multiple:
            raise UserError(
                f"pictures of {height} x {width} pixels do not fit this {config.kind} designer: "
                f"both sides must be multiples of {config.multiple}"
            )
        raw = self.network(images)
        if not config.masks:
            *signed, blur = raw.unbind(-1)
            return torch.stack([*(x.tanh() for x in signed), _bounded(blur)], -1)
        side = config.block
        if side is None:
            return _bounded(raw)
        blocks = _bounded(reduce(raw, "n c (h a) (w b) -> n c h w", "mean", a=side, b=side))
        return repeat(blocks, "n c h w -> n c (h a) (w b)", a=side, b=side)

    def regularisers(self, control: Control) -> dict[str, Scalar]:
        """The penalties of a control by name, none negative.

        Masks: `sparsity` (see `off_keep_ratio`) and `tv` (see `total_variation`). Photometric:
        `strength`, the mean square of the parameters.
        """
        if not self.config.masks:
            return {"strength": control.square().mean()}
        return {
            "sparsity": off_keep_ratio(control, self.config.keep),
            "tv": total_variation(control),
        }


@typed
def apply_control(config: ViewDesignerConfig, images: Images, control: Control) -> Images:
    """The views that a control makes of images: pure, and differentiable in both.

    Args:
        config: says what the control is, and how strong the blur.
        images: in [0, 1].
        control: as `ViewDesigner.control` gives it; mu = 1, or photometric zeros, give the images
            bit for bit.

    Returns:
        Views, in [0, 1] to rounding.
    """
    sigma = config.blur * min(images.shape[-2:])
    return (masked_view if config.masks else photometric_view)(images, control, sigma)


def _bounded(raw: Tensor) -> Tensor:
    return torch.sigmoid(_BOUND * torch.tanh(raw / _BOUND))


def load_view_designer(path: Path | str) -> ViewDesigner:
    """Read a designer that `vfunc.designer_file.save_designer` wrote.

    Raises:
        UserError: the file is missing or holds something else, a designer of language for one.
    """

    def make(config: dict[str, Any]) -> ViewDesigner:
        with torch.device("meta"):  # draws no random numbers
            return ViewDesigner(ViewDesignerConfig(**config))

    return read_designer(path, ViewDesigner, make, "designer of views")
