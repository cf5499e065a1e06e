"""Builds a ViT of timm by name, with random weights from a seed or published ones."""

from __future__ import annotations

import difflib
from typing import Any, cast

import timm
import torch
from timm.models import is_model, model_entrypoint
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from vfunc.errors import UserError
from vfunc.hub import hub_within_reach
from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.encoder import Encoder

MODULES = ("vision_transformer", "eva", "deit")
"""Modules of timm that define the models that `Encoder` accepts."""


def build_encoder(
    architecture: Architecture, *, seed: int, device: torch.device | str = "cpu"
) -> Encoder:
    """An architecture with random weights.

    They are drawn on the CPU, so that a seed means the same everywhere; global random state is as
    before. On the meta device nothing is allocated.

    Raises:
        UserError: timm does not know the name, it is no ViT, or its arguments do not fit.
    """
    vit = create_vit(architecture, seed=seed, device=device)
    return Encoder(vit, architecture)


def timm_encoder(
    name: str,
    *,
    image_size: int | None,
    pretrained: bool,
    seed: int,
    device: torch.device | str = "cpu",
) -> Encoder:
    """One of timm's own ViTs.

    Args:
        name: timm's name; `NAME.TAG` picks among the published weights.
        image_size: side, in pixels, that position embeddings are for; None leaves the model's own.
        pretrained: load the published weights, which needs the network or a local cache.
        seed: seed of random weights.
        device: the encoder's device; on meta nothing is allocated, and nothing loaded.

    Raises:
        UserError: an unknown name or tag, no ViT, or weights that cannot be had.
    """
    bare = name.partition(".")[0]
    plan = Architecture(name)
    load = pretrained and torch.device(device).type != "meta"
    vit = _published(plan) if load else create_vit(plan, seed=seed, device=device)
    known: Any = vit.pretrained_cfg
    architecture = Architecture(bare, {}, tuple(known["mean"]), tuple(known["std"]))
    return Encoder(vit, architecture).resized(image_size).to(device)


def create_vit(
    architecture: Architecture,
    *,
    seed: int,
    device: torch.device | str = "cpu",
    pretrained: bool = False,
) -> VisionTransformer | Eva:
    """A model of timm, with its head; see `build_encoder`.

    Raises:
        UserError: timm does not know the name, it is no ViT, or its arguments do not fit.
    """
    _require_known(architecture.name.partition(".")[0])
    device = torch.device(device)
    # rotary tables of one size would ignore a grid that is asked for
    arguments = {"dynamic_img_size": True, **architecture.arguments}
    place = torch.device("meta") if device.type == "meta" else torch.device("cpu")
    with torch.random.fork_rng(devices=[]), place:
        # torch.manual_seed would seed accelerators too
        torch.default_generator.manual_seed(seed)
        try:
            vit = timm.create_model(architecture.name, pretrained=pretrained, **arguments)
        except (TypeError, AssertionError, ValueError) as error:
            raise UserError(
                f"the encoder {architecture.name!r} cannot be built with "
                f"{dict(architecture.arguments)}: {_line(error)}"
            ) from error
        except RuntimeError as error:
            if "pretrained tag" not in str(error):
                raise
            raise _unknown_tag(architecture.name) from error
    return cast("VisionTransformer | Eva", vit.to(device))  # `Encoder` refuses others


def _published(plan: Architecture) -> VisionTransformer | Eva:
    with hub_within_reach() as reachable:
        try:
            return create_vit(plan, seed=0, pretrained=True)
        except UserError:
            raise
        except Exception as error:
            # the HTTP library, and with it the errors, depends on huggingface_hub's version
            if "No pretrained weights" in str(error):
                reason = "timm has none for it"
            else:
                reason = _line(error) if reachable else "the Hugging Face Hub does not answer"
            raise UserError(
                f"the weights of {plan.name!r} cannot be had: {reason}; give --no-pretrained, or a "
                "directory with config.json and model.safetensors"
            ) from error


def _require_known(name: str) -> None:
    """The name has to be one of timm's, and of a ViT that `Encoder` takes."""
    if not is_model(name):
        names = [n for module in MODULES for n in timm.list_models(module=module)]
        near = difflib.get_close_matches(name, names, n=4, cutoff=0.6)
        known = f"; close: {', '.join(near)}" if near else ""
        raise UserError(
            f"unknown encoder {name!r}: neither 'embedded', a directory nor a model of timm{known}"
        )
    module = model_entrypoint(name).__module__.rpartition(".")[2]
    if module not in MODULES:
        raise UserError(
            f"the encoder {name!r} is no ViT (timm's {module}): give a model of timm's "
            f"{', '.join(MODULES)}"
        )


def _unknown_tag(name: str) -> UserError:
    bare, _, tag = name.partition(".")
    tags = [n.partition(".")[2] for n in timm.list_models(f"{bare}.*", pretrained=True)]
    return UserError(f"the encoder {bare!r} has no weights {tag!r}; it has {', '.join(tags)}")


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
