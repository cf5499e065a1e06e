"""Architecture of a ViT of timm, as written beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """The arguments of `timm.create_model` for a ViT, and its normalisation of pictures.

    Attributes:
        name: timm's name, without the tag of pretrained weights.
        arguments: arguments that differ from that name's own.
        mean: mean of sRGB in [0, 1], by channel.
        std: standard deviation, likewise.
    """

    name: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
