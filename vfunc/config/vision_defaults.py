"""Defaults of `--modality vision`.

What belongs to the learner (picture sizes, batches, learning rates, the designer's size, how long
probes train) follows the learner: small for the embedded one, the paper's for any other. What
belongs to the data (how many pictures to use, which labels) follows the data.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vfunc.config.method_options import EMBEDDED
from vfunc.config.run_options import RunOptions
from vfunc.config.vision_options import VisionFeedbackOptions, VisionTaskOptions
from vfunc.training.budget import Budget

VISION_ONLY = tuple(
    field.name
    for group in (VisionTaskOptions, VisionFeedbackOptions)
    for field in dataclasses.fields(group)
)
"""Options of vision; None for language."""

_SIZES = {
    # --augmentor: width and layers, beside the embedded learner and beside others
    "unet": ((8, 3), (32, 3)),
    "dit": ((48, 2), (192, 4)),
    "photometric": ((16, 3), (32, 3)),
}


def vision_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of these options' company, of every option in which vision differs.

    Args:
        given: what was given.
    """
    embedded = given.get("learner", EMBEDDED) == EMBEDDED
    batch_size = given.get("batch_size", 32 if embedded else 256)
    defaults = {
        "objective": "dino",
        "local_crops": 6,
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "centre_momentum": 0.9,
        "pretrained": True,
        "augmentor": "unet",
        "keep": 0.6,
        "strength_penalty": 0.1,
        "blur": 0.05,
        "head_steps": 50,
        "head_lr": 1.0,
        "feature_layers": 1,
        "void_label": None,
        "label_size": None,
        "retrieval": None,
        "depth_scale": 0.001,
        "batch_size": batch_size,
        "meta_batch_size": max(1, batch_size // 4),
        "feedback_batch_size": 64 if embedded else 32,
        "weight_decay": 0.04,
        "warmup": 0.05,
        "align": "last:2",
        "meta_period": 4,
    }
    return defaults | _of_learner(embedded) | _of_data(given) | _of_designer(given, embedded)


def _of_learner(embedded: bool) -> dict[str, Any]:
    if embedded:
        return {
            "image_size": 64,
            "local_size": 32,
            "output_dim": 64,
            "teacher_momentum": 0.95,
            "head_size": 128,
            "probe_steps": 200,
            "lr": 5e-4,
            "betas": (0.9, 0.99),
            "budget": Budget(120, "steps"),
        }
    return {
        "image_size": 224,
        "local_size": 96,
        "output_dim": 8192,
        "teacher_momentum": 0.996,
        "head_size": 64,
        "probe_steps": 20_000,
        "lr": 4.15e-6,
        "betas": (0.9, 0.999),
        "budget": RunOptions.__dataclass_fields__["budget"].default,
    }


def _of_data(given: Mapping[str, Any]) -> dict[str, Any]:
    weights = {f"{label}_weight": 1.0 for label in ("segmentation", "depth", "classification")}
    common = weights | {"feedback_size": 512, "eval_split": "test"}
    if given.get("feedback") is None:
        return common | {
            "labels": ("segmentation", "depth"),
            "stream_size": 4096,
            "eval_size": 256,
            "fit_size": 512,
            "heads_size": 512,
            "colour": 0.4,
        }
    return common | {
        "labels": None,
        "stream_size": None,
        "eval_size": 2000,
        "fit_size": 2000,
        "heads_size": 2000,
        "colour": 1.0,
    }


def _of_designer(given: Mapping[str, Any], embedded: bool) -> dict[str, Any]:
    width, layers = _SIZES[given.get("augmentor", "unet")][0 if embedded else 1]
    return {
        "designer_width": width,
        "designer_layers": layers,
        "designer_lr": 3e-3 if embedded else 1.54e-4,
        "sparsity_penalty": 0.01 if embedded else 0.131,
        "tv_penalty": 0.003 if embedded else 0.144,
    }
