"""Make the embedded vision learner: a small ViT, trained a while by plain DINO on scenes.

    python experiments/make_vision_base.py --out base

By default that of the problems shortcut and clean: 4 blocks, trained on clean scenes, with DINO's
head and teacher. `--problem repetitive` makes that of the earlier problem, and of pictures of your
own: 12 blocks and no more than the encoder.

The scenes are of the stream's digits and photographs, which no run is measured on, drawn from
another seed than any run's. The student's encoder is saved as timm saves one. The same options
give the same weights on one machine.
"""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.printable import one_line
from vfunc.vision.data.vision_data import stream_pictures
from vfunc.vision.encoder.embedded_encoder import (
    EMBEDDED_ARCHITECTURE,
    EMBEDDED_ENCODER,
    FOUR_BLOCKS,
    FOUR_BLOCKS_ARCHITECTURE,
    embedded_encoder,
)
from vfunc.vision.encoder.encoder_file import save_encoder
from vfunc.vision.objectives.dino import Dino
from vfunc.vision.objectives.dino_file import save_dino
from vfunc.vision.scenes.scenes import SceneImages, looks_of

with needs("run", "tyro"):
    import tyro

BASE_SEED = 1_000_000
"""Above the seeds of runs, so that the stream's scenes are others."""


@dataclass(frozen=True)
class Options:
    """Options of the base learner; the defaults made the one that is shipped."""

    problem: Literal["clean", "repetitive"] = "clean"
    """The problem whose base it is."""
    out: Path | None = None
    """Directory to write config.json and model.safetensors to (and dino.safetensors); by default
    that of the one that is shipped."""
    seed: int = 0
    """Seed of the weights, the scenes, their order and the crops."""
    batches: int | None = None
    """Training batches; by default 200, and 500 of repetitive."""
    batch_size: int = 32
    """Scenes a batch."""
    scenes: int = 6_000
    """Distinct scenes to train on."""
    colour: float = 0.4
    """Strength of the colour jitter; 1 is DINO's."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    warmup: float = 0.05
    """Share of the batches over which it rises; it falls by a cosine afterwards."""
    weight_decay: float = 0.04
    """AdamW's."""
    output_dim: int = 64
    """Prototypes of the projection head."""
    local_crops: int = 6
    """Local crops of each scene."""
    weight_scale: float = 4.0
    """Factor on the initial matrices: timm's standard deviation of 0.02 is for wider encoders, and
    leaves the features of this one all alike."""
    teacher_momentum: float = 0.95
    """Of the teacher's average at the start; it rises to 1."""

    def __post_init__(self) -> None:
        for name in ("batches", "batch_size", "scenes"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UserError(f"--{name.replace('_', '-')} {getattr(self, name)}: at least 1")


def make(options: Options) -> None:
    """Train and save."""
    small = options.problem == "clean"
    batches = options.batches or (200 if small else 500)
    out = options.out or (FOUR_BLOCKS if small else EMBEDDED_ENCODER)
    shape = FOUR_BLOCKS_ARCHITECTURE if small else EMBEDDED_ARCHITECTURE
    encoder = embedded_encoder(options.seed, architecture=shape)
    with torch.no_grad():
        for parameter in encoder.parameters():
            if parameter.ndim > 1:
                parameter.mul_(options.weight_scale)
    objective = Dino(
        image_size=64,
        local_size=32,
        local_crops=options.local_crops,
        output_dim=options.output_dim,
        teacher_momentum=options.teacher_momentum,
        colour=options.colour,
    )
    learner = objective.learner(encoder, options.seed).train()
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, options.lr, weight_decay=options.weight_decay)
    look = looks_of(options.problem)["stream"]
    pictures = SceneImages("stream", BASE_SEED + options.seed, options.scenes, look)
    began = time.perf_counter()
    for step in range(batches):
        for group in optimizer.param_groups:
            group["lr"] = options.lr * _factor(step / batches, options.warmup)
        images = stream_pictures(
            pictures, step * options.batch_size, options.batch_size, options.seed
        )
        draw = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
        batch = objective.batch(images, draw)
        with torch.no_grad():
            targets, carried = objective.targets(learner, batch, batch.views)
        calls = objective.calls(batch, batch.views)
        outputs = {name: learner(*call) for name, call in calls.items()}
        loss = objective.parts(outputs, targets, batch).sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        objective.stepped(learner, [carried], step / batches)
        if (step + 1) % 50 == 0 or step + 1 == batches:
            seconds = time.perf_counter() - began
            mean = targets.mean((0, 1)).clamp_min(1e-9)
            spread = float(-(mean * mean.log()).sum())
            print(
                f"batch {step + 1:5}  loss {loss.item():.4f}  entropy of the mean target "
                f"{spread:.2f}  {seconds:.0f} s",
                flush=True,
            )
    save_encoder(learner.encoder, out)
    if small:
        save_dino(learner, out)
    print(f"wrote {out}")


def _factor(spent: float, warmup: float) -> float:
    if spent < warmup:
        return spent / warmup + 1e-3
    return 0.5 * (1 + math.cos(math.pi * (spent - warmup) / (1 - warmup)))


def main() -> int:
    """Carry out a command line."""
    try:
        with refused_in_a_line(sys.argv[1:]):
            asked = tyro.cli(Options, description=__doc__)
        make(asked)
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
