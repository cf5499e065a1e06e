"""Composes layers over a background, with exact classes and depths of pixels.

Nothing here is random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int8

from vfunc.typecheck import typed
from vfunc.vision.data.batches import IGNORE

SIDE = 64
"""Height and width of a scene, in pixels."""


@dataclass(frozen=True, eq=False)
class Layer:
    """One digit, ready to be drawn: it covers `alpha.shape` pixels from (top, left) on.

    Attributes:
        alpha: opacity.
        colour: colours in [0, 1].
        top: first row.
        left: first column.
        depth: depth in metres.
        category: class of its pixels.
    """

    alpha: Float32[np.ndarray, "h w"]
    colour: Float32[np.ndarray, "h w 3"]
    top: int
    left: int
    depth: float
    category: int


@typed
def compose(
    background: Float32[np.ndarray, "64 64 3"],
    plane: Float32[np.ndarray, "64 64"],
    layers: Sequence[Layer],
) -> tuple[Float32[np.ndarray, "64 64 3"], Int8[np.ndarray, "64 64"], Float32[np.ndarray, "64 64"]]:
    """Draw layers over a background, in the order given; nothing is rounded.

    A pixel has a class and a depth where it shows one thing alone. Where a layer hides only a part
    of what is behind it, its class is `IGNORE` and its depth 0.

    Args:
        background: colours in [0, 1].
        plane: the background's depth, in metres.
        layers: from the farthest to the nearest, each within the scene.

    Returns:
        Colours, classes and depth.
    """
    image, depth = background.copy(), plane.copy()
    segmentation = np.zeros(plane.shape, dtype=np.int8)
    for layer in layers:
        height, width = layer.alpha.shape
        box = slice(layer.top, layer.top + height), slice(layer.left, layer.left + width)
        image[box] += layer.alpha[..., None] * (layer.colour - image[box])
        whole, mixed = layer.alpha >= 1, (layer.alpha > 0) & (layer.alpha < 1)
        segmentation[box][whole], depth[box][whole] = layer.category, layer.depth
        segmentation[box][mixed], depth[box][mixed] = IGNORE, 0.0
    return image, segmentation, depth
