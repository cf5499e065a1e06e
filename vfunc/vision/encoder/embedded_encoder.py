"""Architecture and path of the small ViT that comes with the package."""

from __future__ import annotations

from pathlib import Path

import torch

from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.encoder import Encoder
from vfunc.vision.encoder.timm_vit import build_encoder

EMBEDDED_ENCODER = Path(__file__).parent / "embedded"
"""A directory that `save_encoder` wrote."""

FOUR_BLOCKS = EMBEDDED_ENCODER / "four_blocks"
"""The same of the smaller one, with DINO's head and teacher beside it."""

FOUR_BLOCKS_ARCHITECTURE = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 4, "num_heads": 4},
)
"""0.2M parameters: the same with 4 blocks, for the problems shortcut and clean."""

EMBEDDED_ARCHITECTURE = Architecture(
    "vit_tiny_patch16_224",
    {"img_size": 64, "patch_size": 8, "embed_dim": 64, "depth": 12, "num_heads": 4},
)
"""0.6M parameters: patches of 8 pixels, 64 wide, 12 blocks of 4 heads, for 64 x 64 pixels."""


def embedded_encoder(
    seed: int,
    device: torch.device | str = "cpu",
    architecture: Architecture = EMBEDDED_ARCHITECTURE,
) -> Encoder:
    """An embedded architecture with random weights from the seed; global random state is kept."""
    return build_encoder(architecture, seed=seed, device=device)
