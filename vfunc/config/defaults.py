"""Defaults that depend on the modality, the problem, the learner and each other.

For language, on the embedded problem and learner they are those that were found to show the value
signal within minutes. Otherwise they are the paper's language experiments. What belongs to the
learner (learning rates, the designer's size, S) follows the learner; what belongs to the data
(targets, candidates, lengths) follows the data. Vision's are in `vfunc.config.vision_defaults`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from vfunc.config.config import FIELDS
from vfunc.config.method_options import EMBEDDED
from vfunc.config.run_options import VISION
from vfunc.config.vision_defaults import VISION_ONLY, vision_defaults
from vfunc.language.data.arithmetic import STYLES
from vfunc.language.data.streams import DEFAULT_PRESET, stream_preset

EMBEDDED_DATA = (
    "problem",
    "mistakes",
    "wrong_share",
    "careless_styles",
    "forum_share",
    "eval_forum_share",
    "levels",
    "stream_size",
    "eval_split",
    "feedback_tasks",
)


def with_defaults(given: Mapping[str, Any]) -> dict[str, Any]:
    """Every option: those given, and the defaults of the rest in their company."""
    fixed = {
        name: field.default
        for name, field in FIELDS.items()
        if field.default is not dataclasses.MISSING
    }
    if given.get("modality") == VISION:
        return dict.fromkeys(FIELDS) | fixed | vision_defaults(given) | dict(given)
    options = fixed | dict.fromkeys(VISION_ONLY) | dict(given)
    for defaults in (_of_data, _of_learner, _of_optimizer, _of_designer):
        options = defaults(options) | options
    return options


def _of_data(options: Mapping[str, Any]) -> dict[str, Any]:
    if options["stream"] is not None:
        embedded_learner = options["learner"] == EMBEDDED
        batch = options.get("batch_size", 8 if embedded_learner else 4)
        own = dict.fromkeys(EMBEDDED_DATA)
        return own | {
            "eval_size": 256,
            "seq_len": 512,
            "batch_size": batch,
            "feedback_batch_size": batch,
        }
    problem = options.get("problem", DEFAULT_PRESET)
    spec = stream_preset(problem)
    careless = "both" if set(spec.careless_styles) == set(STYLES) else spec.careless_styles[0]
    return {
        "problem": problem,
        "mistakes": spec.mistakes,
        "wrong_share": spec.share_wrong,
        "careless_styles": careless,
        "forum_share": spec.forum_share,
        "eval_forum_share": spec.evaluation_forum_share,
        "levels": tuple(map(float, spec.levels)),
        "stream_size": 10_000,
        "eval_split": "test",
        "feedback_tasks": "one",
        "eval_size": 512,
        "seq_len": 128,
        "batch_size": 32,
        "feedback_batch_size": options.get("batch_size", 32),
    }


def _of_learner(options: Mapping[str, Any]) -> dict[str, Any]:
    lora = options["lora_rank"] > 0
    alpha = {"lora_alpha": 2.0 * options["lora_rank"]}
    if options["learner"] == EMBEDDED:
        return alpha | {"align": "all"}
    return alpha | {"align": "lora:last:2" if lora else "last:2"}


def _of_optimizer(options: Mapping[str, Any]) -> dict[str, Any]:
    if options["learner"] == EMBEDDED:
        return {"lr": 1e-3, "betas": (0.9, 0.99), "warmup": 0.05}
    lr = 2e-4 if options["lora_rank"] > 0 else 1.5e-5
    return {"lr": lr, "betas": (0.9, 0.999), "warmup": 0.03}


def _of_designer(options: Mapping[str, Any]) -> dict[str, Any]:
    if options["learner"] == EMBEDDED:
        size = {"designer_width": 48, "designer_layers": 1, "designer_lr": 4e-3}
    else:
        size = {"designer_width": 256, "designer_layers": 6, "designer_lr": 1e-4}
    embedded_problem = options["stream"] is None
    targets = options.get("targets", "gate" if embedded_problem else "free")
    return size | {
        "targets": targets,
        "alpha_max": 1.0 if targets == "gate" else 0.5,
        "gate_penalty": 0.3 if targets == "bounded" else 0.0,
        "top_k": 16 if embedded_problem else 64,
    }
