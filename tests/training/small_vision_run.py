"""Small runs on pictures: a tiny ViT on the embedded scenes, a handful of steps, in memory."""

from __future__ import annotations

import atexit
import dataclasses
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_run import Memory, Trained, cached_assemble
from torch import Tensor

from vfunc.config.layers import Layer
from vfunc.training.arm_run import ArmRun
from vfunc.training.assemble import Assembled
from vfunc.training.build.configuration import resolve
from vfunc.training.loop import run_arm
from vfunc.training.start import start_arm
from vfunc.vision.data.vision_data import Example
from vfunc.vision.designers.view_designer import ViewDesigner
from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.encoder_file import save_encoder
from vfunc.vision.encoder.timm_vit import build_encoder
from vfunc.vision.workload import VisionWorkload

SHAPE = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
STREAMED = ("heads", "feedback", "held_out")
"""Roles whose labels training and its probe read; `fit` and `test` are the evaluation's."""

SMALL_VISION: dict[str, Any] = {
    "modality": "vision",
    "problem": "repetitive",
    "image_size": 32,
    "stream_size": 16,
    "heads_size": 8,
    "feedback_size": 8,
    "fit_size": 5,
    "eval_size": 5,
    "batch_size": 3,
    "meta_batch_size": 2,
    "feedback_batch_size": 3,
    "head_size": 4,
    "head_steps": 4,
    "probe_steps": 4,
    "designer_width": 4,
    "designer_layers": 1,
    "lr": 1e-2,
    "designer_lr": 1e-2,
    "budget": "2steps",
    "eval_every": 0.0,
    "save_every": 1.0,
    "probe_batches": 0,
    "meta_period": 1,
    "threads": 1,
    "device": "cpu",
    "certify": False,
}
OF_DINO = {"local_size": 16, "local_crops": 1, "output_dim": 8, "colour": 0.0}
DINO_AND_IJEPA = ("dino", "ijepa")
ESTIMATORS = [
    {"estimator": "first_order", "value": "dot"},
    {"estimator": "first_order", "value": "cosine"},
    {"estimator": "first_order", "value": "preconditioned"},
    {"estimator": "unrolled", "lookahead_steps": 2},
    {"estimator": "implicit", "damping": 1e4, "align": "last:1"},
    {"estimator": "random"},
    {"estimator": "zero"},
]


def name_of(options):
    return "-".join(str(v) for v in options.values())


def both(estimators=ESTIMATORS, of_ijepa=(0,)):
    """Options of DINO with each of these estimators, and of I-JEPA with some."""
    cases = [{"objective": "dino"} | e for e in estimators]
    cases += [{"objective": "ijepa"} | ESTIMATORS[i] for i in of_ijepa]
    return pytest.mark.parametrize("options", cases, ids=map(name_of, cases))


@functools.cache
def tiny_learner() -> str:
    """A directory with a ViT of three blocks on 32 pixels, for `--learner`."""
    directory = tempfile.mkdtemp(prefix="tiny-vit-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    encoder = build_encoder(Architecture("vit_tiny_patch16_224", SHAPE), seed=0)
    with torch.no_grad():  # timm starts with weights so small that nothing but biases shows
        draw = torch.Generator().manual_seed(1)
        for p in encoder.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=draw))
    save_encoder(encoder, Path(directory))
    return directory


def defaults(options: Any) -> dict[str, Any]:
    """What a small run is given beside these options."""
    dino = OF_DINO if options.get("objective", "dino") == "dino" else {}
    return SMALL_VISION | dino | {"learner": tiny_learner()}


def small_vision(**options: Any):
    """The configuration of a small run; options that `options` make useless give way."""
    return resolve(Layer(defaults(options)), Layer(options))


def parts_of(**options: Any) -> Assembled:
    """Learner and workload of a small run."""
    return cached_assemble(small_vision(**options))


def new_run(
    arm: str = "vpretraining", workload: VisionWorkload | None = None, **options: Any
) -> ArmRun:
    """One arm at its start, with a log that keeps everything."""
    arms = tuple(dict.fromkeys(("baseline", "vpretraining", arm)))
    return start_arm(arm, parts_of(**{"arms": arms} | options), Memory(), workload=workload)


def train(
    arm: str = "vpretraining",
    change: Callable[[VisionWorkload], Any] = lambda workload: workload,
    log: Memory | None = None,
    prepare: Callable[[Any], Any] = lambda state: None,
    **options: Any,
) -> Trained:
    """Train one arm in memory; `change` may replace its workload, `prepare` its state."""
    arms = tuple(dict.fromkeys(("baseline", "vpretraining", arm)))
    parts = parts_of(**{"arms": arms} | options)
    log = log or Memory()
    run = start_arm(arm, parts, log, workload=change(parts.workload))
    prepare(run.state)
    return Trained(run.state, run_arm(run), log)


def everything(trained: Trained) -> dict[str, Tensor]:
    """Parameters, teacher and centre, and the optimizer's moments."""
    moments = trained.state.optimizer.state_dict()["state"]
    return dict(trained.state.learner.state_dict()) | {
        f"{i} {k}": x for i, found in moments.items() for k, x in found.items()
    }


@dataclasses.dataclass(frozen=True)
class Relabelled:
    """The same pictures, every label another."""

    examples: Any
    classes: int

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        found = self.examples[index]
        return dataclasses.replace(
            found,
            segmentation=(found.segmentation.flip(0) + 1) % self.classes,
            depth=0.5 + 2 * found.depth.flip(1),
            label=(found.label + 1) % 10,
        )


@dataclasses.dataclass(frozen=True)
class Forbidden:
    """Labelled pictures that may not be read."""

    examples: Any

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, index: int) -> Example:
        raise AssertionError("labels were read")


def with_labels(workload: VisionWorkload, make: Callable[[Any, Any], Any]) -> VisionWorkload:
    """With other labels wherever training or its probe reads them."""
    sources = tuple(
        dataclasses.replace(s, **{role: make(getattr(s, role), s) for role in STREAMED})
        for s in workload.sources
    )
    return dataclasses.replace(workload, sources=sources)


def poisoned(workload: VisionWorkload) -> VisionWorkload:
    """The same pictures, other labels."""
    return with_labels(workload, lambda held, s: Relabelled(held, s.classes["segmentation"]))


def unreadable(workload: VisionWorkload) -> VisionWorkload:
    """Labels that raise when they are read."""
    return with_labels(workload, lambda held, s: Forbidden(held))


def constant_control(monkeypatch, level: float) -> None:
    """Every designer says `level` of every pixel (or of every photometric parameter)."""
    control = ViewDesigner.control
    monkeypatch.setattr(
        ViewDesigner, "control", lambda self, images: level + 0 * control(self, images)
    )
