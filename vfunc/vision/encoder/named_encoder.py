"""Makes the learner's encoder from its name: embedded, a directory, or a model of timm."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from vfunc.errors import UserError
from vfunc.vision.encoder.embedded_encoder import EMBEDDED_ENCODER, embedded_encoder
from vfunc.vision.encoder.encoder import DenseFeatures, Encoder, count_parameters
from vfunc.vision.encoder.encoder_file import load_encoder
from vfunc.vision.encoder.timm_vit import timm_encoder

__all__ = ["EMBEDDED", "DenseFeatures", "Encoder", "count_parameters", "make_encoder"]

EMBEDDED = "embedded"


def make_encoder(
    name: str,
    *,
    image_size: int | None = None,
    pretrained: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Encoder:
    """Make an encoder, parameters in float32.

    Args:
        name: `embedded`; a directory that `save_encoder` (or timm's `save_for_hf`) wrote; or a ViT
            of timm such as `vit_base_patch16_dinov3`, a tag of its weights with it or not.
        image_size: usual side of its pictures, in pixels: position embeddings are resampled for
            it once, and not at every call. None leaves the model's own. Other sizes still work.
        pretrained: load the weights; else they are random.
        seed: seed of random weights; global random state is kept.
        device: the encoder's device; on meta nothing is allocated, and nothing loaded.

    Raises:
        UserError: an unknown name, no ViT, damaged files, weights that cannot be had, or a size
            that is not a multiple of the patch; one line.
    """
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or os.sep in name
    if name != EMBEDDED and (path.is_dir() or looks_like_path):
        if not path.is_dir():
            raise UserError(f"the encoder directory {name!r} does not exist")
        return load_encoder(
            path, image_size=image_size, pretrained=pretrained, seed=seed, device=device
        )
    if name != EMBEDDED:
        return timm_encoder(
            name, image_size=image_size, pretrained=pretrained, seed=seed, device=device
        )
    if not pretrained or torch.device(device).type == "meta":
        return embedded_encoder(seed, device).resized(image_size)
    if not EMBEDDED_ENCODER.is_dir():
        raise UserError(
            "this installation comes without the embedded encoder's weights: give "
            "--no-pretrained or another encoder, or run experiments/make_vision_base.py"
        )
    return load_encoder(EMBEDDED_ENCODER, image_size=image_size, device=device)
