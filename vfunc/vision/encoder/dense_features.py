"""What heads and probes read of an encoder."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor


class DenseFeatures(NamedTuple):
    """Features of pictures: one vector each, and a map over the patches.

    Attributes:
        pooled: `Encoder.pooled` of the last block.
        maps: patch tokens of several blocks, one after the other along the channels, the last
            block last.
    """

    pooled: Float[Tensor, "n d"]
    maps: Float[Tensor, "n c gh gw"]
