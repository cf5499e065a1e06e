"""Saves and loads an encoder as timm and the Hub do: config.json, model.safetensors.

`timm.create_model("local-dir:DIRECTORY", pretrained=True)` reads it too.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from timm.models.eva import Eva
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.storage.manifest import require_as_written
from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.encoder import Encoder
from vfunc.vision.encoder.timm_vit import build_encoder, create_vit

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def save_encoder(encoder: Encoder, directory: Path | str) -> None:
    """Write parameters and configuration; equal encoders give equal bytes.

    Args:
        encoder: an encoder of `make_encoder` (or `build_encoder`).
        directory: the directory, created if need be.

    Raises:
        UserError: the encoder has no architecture.
        OSError: it cannot be written.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    config = json.dumps(_config(encoder), indent=2, sort_keys=True) + "\n"
    tensors = {name: x.detach().cpu().contiguous() for name, x in encoder.vit.state_dict().items()}
    save_file(tensors, str(directory / WEIGHTS))
    (directory / CONFIG).write_text(config, encoding="utf-8")


def load_encoder(
    directory: Path | str,
    *,
    image_size: int | None = None,
    pretrained: bool = True,
    seed: int = 0,
    device: torch.device | str = "cpu",
) -> Encoder:
    """Read an encoder that `save_encoder`, or timm's `save_for_hf`, wrote; in float32.

    Args:
        directory: the directory of config.json and model.safetensors.
        image_size: side, in pixels, to resample position embeddings for; None leaves them.
        pretrained: load the weights; else the architecture alone, with random ones.
        seed: seed of random weights.
        device: the encoder's device; on meta nothing is allocated, and nothing loaded.

    Raises:
        UserError: something is missing, damaged, no ViT, or does not fit together.
    """
    directory = Path(directory)
    require_as_written(directory)
    architecture = _architecture(directory)
    meta = torch.device(device).type == "meta"
    if pretrained and not meta:
        # directories of timm's hold a head, which `Encoder` drops: the file has to fit all the same
        vit = create_vit(architecture, seed=seed)
        _fill(vit, directory / WEIGHTS)
        encoder = Encoder(vit, architecture)
    else:
        encoder = build_encoder(architecture, seed=seed, device=device)
    return encoder.resized(image_size).to(device)


def _config(encoder: Encoder) -> dict[str, object]:
    vit, built = encoder.vit, encoder.architecture
    if built is None:
        raise UserError("this encoder cannot be saved: it was made without an Architecture")
    normed = not isinstance(vit.norm, nn.Identity)
    if isinstance(vit, Eva):
        norms = {"use_fc_norm": False, "use_post_transformer_norm": normed}
    else:
        norms = {"fc_norm": False}
    size = list(encoder.image_size)
    arguments = {**built.arguments, **norms, "img_size": size, "dynamic_img_size": True}
    arguments |= {"num_classes": 0, "global_pool": vit.global_pool}
    return {
        "architecture": built.name,
        "num_classes": 0,
        "num_features": encoder.width,
        "global_pool": vit.global_pool,
        "model_args": arguments,
        "pretrained_cfg": {
            "mean": list(built.mean),
            "std": list(built.std),
            "input_size": [3, *size],
            "fixed_input_size": False,
            "num_classes": 0,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }


def _architecture(directory: Path) -> Architecture:
    path = directory / CONFIG
    if not path.is_file():
        raise UserError(f"the encoder directory {str(directory)!r} has no {CONFIG}")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        picture = config.get("pretrained_cfg", config)
        mean, std = (tuple(map(float, picture[name])) for name in ("mean", "std"))
        classes = config.get("num_classes", picture.get("num_classes", 0))
        arguments = {"num_classes": classes} | dict(config.get("model_args") or {})
        name = str(config["architecture"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the encoder's {str(path)!r} is no configuration of a timm model: "
            f"{type(error).__name__}: {error}"
        ) from error
    if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
        raise UserError(f"the encoder's {str(path)!r} has no mean and std of three channels")
    return Architecture(name, arguments, mean, std)


def _fill(vit: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"the encoder directory {str(path.parent)!r} has no {path.name}")
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise UserError(f"the encoder's {str(path)!r} is damaged: {error}") from error
    misfit = _misfit(vit.state_dict(), tensors)
    if misfit:
        raise UserError(f"the encoder's {str(path)!r} does not fit its {CONFIG}: {misfit}")
    for name, x in tensors.items():
        if not x.isfinite().all():
            raise UserError(f"the encoder's {str(path)!r} is damaged: {name} is not finite")
    vit.load_state_dict(tensors)


def _misfit(wanted: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """The first mismatch between a file and a model, in a line; empty if there is none."""
    missing, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing:
        return f"{len(missing)} parameters are missing, such as {missing[0]}"
    if unknown:
        return f"{len(unknown)} tensors are no parameters of it, such as {unknown[0]}"
    for name, x in wanted.items():
        if x.shape != found[name].shape:
            return f"{name} has shape {tuple(found[name].shape)}, not {tuple(x.shape)}"
    return ""
