"""Saves and loads what DINO has beside the student's encoder: both heads, the teacher, its centre.

A run that begins with a new head and a teacher that equals its student spends its first hundred
steps on finding both. The file lies beside the encoder's, in half precision.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from vfunc.errors import UserError
from vfunc.vision.encoder.positions import resampled
from vfunc.vision.objectives.dino import DinoLearner

REST = "dino.safetensors"
"""The file's name, in the directory of an encoder."""

_ENCODER = "encoder."


def save_dino(learner: DinoLearner, directory: Path | str) -> None:
    """Write heads, teacher and centre beside the encoder; the student's encoder is not in it."""
    tensors = {
        name: x.detach().cpu().to(torch.float16).contiguous()
        for name, x in learner.state_dict().items()
        if not name.startswith(_ENCODER)
    }
    save_file(tensors, str(Path(directory) / REST))


def load_dino(learner: DinoLearner, directory: Path | str) -> str | None:
    """Fill a learner around a directory's encoder with what was saved beside it, if anything was.

    Args:
        learner: changed in place. Its encoder may have been resampled for pictures of another
            size; the teacher is, then, too.
        directory: the encoder's directory.

    Returns:
        Why nothing was loaded, in words for a user; None where it was.

    Raises:
        UserError: the file is damaged.
    """
    path = Path(directory) / REST
    if not path.is_file():
        return "there is none beside the encoder"
    try:
        tensors = {name: x.float() for name, x in load_file(str(path)).items()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{str(path)!r} is damaged: {error}") from error
    if not all(x.isfinite().all() for x in tensors.values()):
        raise UserError(f"{str(path)!r} is damaged: it holds numbers that are not finite")
    tensors = _resampled(learner, tensors)
    wanted = {k: v for k, v in learner.state_dict().items() if not k.startswith(_ENCODER)}
    shapes = [{k: tuple(x.shape) for k, x in some.items()} for some in (wanted, tensors)]
    if shapes[0] != shapes[1]:
        there = len(tensors.get("centre", ()))
        return f"those beside the encoder are of other sizes ({there} outputs)"
    learner.load_state_dict(tensors, strict=False)
    return None


def _resampled(learner: DinoLearner, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The teacher's position embeddings for the size of pictures that the learner has."""
    name = "teacher_encoder.vit.pos_embed"
    wanted, found = learner.state_dict().get(name), tensors.get(name)
    if wanted is None or found is None or wanted.shape == found.shape:
        return tensors
    encoder = learner.teacher_encoder
    prefix, side = encoder.prefix_tokens, encoder.image_size[0] // encoder.patch
    native = round((found.shape[1] - prefix) ** 0.5)
    return tensors | {name: resampled(found, (native, native), (side, side), prefix)}
