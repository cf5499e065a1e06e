"""Checks a vision run (`--dry-run`): the whole architecture with random weights, one tiny step.

What does not fit the machine is built on the meta device, where tensors have shapes and no numbers.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from rich.console import Console
from torch import Tensor, nn

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.modality import Modality
from vfunc.pullback.memory import free_bytes
from vfunc.training.assemble import Assembled, pick_device
from vfunc.training.build.kept_bytes import GIB
from vfunc.training.build.vision_assembly import encoder_of, objective_of, workload_of
from vfunc.training.build.vision_config import VisionConfig
from vfunc.training.build.vision_memory import estimated
from vfunc.training.build.vision_noise import noise, noise_data
from vfunc.training.build.vision_sources import label_size, read_data
from vfunc.training.start import start_arm
from vfunc.training.step import micro_batch, optimizer_step
from vfunc.vision.data.batches import Blocks, UnlabeledBatch
from vfunc.vision.data.public import parse_public
from vfunc.vision.data.vision_data import VisionData
from vfunc.vision.encoder.named_encoder import count_parameters
from vfunc.vision.evaluation.metrics import described
from vfunc.vision.objectives.objective import Objective
from vfunc.vision.reporting import vision_reporting, vision_saving
from vfunc.vision.workload import VisionWorkload

LABELLED = 8
"""Labelled pictures of the one step, at most: one alone may be void."""

GROWTH = 2.0
"""What the one step needs, in units of a plain step of as many pictures.

A copy of the learner to try the split on, the estimate's own graph, kernels' workspaces: 4.7 GiB at
its peak for a ViT-B/16 and two pictures, where 2.6 are estimated.
"""


def vision_dry_run(config: VisionConfig, console: Console) -> None:
    """Build what a run would, with random weights, and say what it is; train nothing to keep.

    Public data sets need not be there: noise takes their place.

    Args:
        config: resolved.
        console: the console to print on.

    Raises:
        UserError: something does not fit together, or data of one's own cannot be read.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    device = pick_device(config.learner.device)
    encoder = encoder_of(config, pretrained=False, device="meta")
    objective = objective_of(config, encoder)
    learner = objective.learner(encoder, config.run.seed)
    sources, missing = _sources(config, encoder.patch)
    workload = workload_of(config, encoder, sources, device)
    student = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    say(
        f"learner   {config.learner.learner}: encoder {count_parameters(encoder):,} parameters; "
        f"{student:,} trained in all, {count_parameters(learner) - student:,} of the teacher; "
        f"designer {count_parameters(workload.new_designer()):,}"
    )
    instead = [f"{'pictures':9} noise in their place: {missing}"]
    for line in instead if missing else described(sources):
        say(line)
    batch = _meta_batch(objective, workload.batch_size, config)
    for name, shape in _shapes(objective, learner, batch, sources).items():
        say(f"{name:9} {shape}")
    needed = estimated(
        learner,
        objective,
        lambda pictures: _meta_batch(objective, pictures, config),
        config.optimizer,
        pictures=workload.batch_size,
        dtype=workload.dtype,
    )
    say(
        f"memory    a plain step about {needed.total / GIB:.1f} GiB: weights "
        f"{needed.weights / GIB:.1f}, gradients and optimizer {needed.optimizer / GIB:.1f}, "
        f"activations {needed.activations / GIB:.1f} for {workload.batch_size} pictures in "
        f"{config.learner.precision}"
    )
    one_picture = needed.activations // workload.batch_size
    tiny = int(GROWTH * (needed.weights + needed.optimizer + one_picture))
    free = free_bytes(device)
    if tiny > free:
        say(
            f"step      not taken: even one picture needs about {tiny / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} are free on {device}; shapes are from the meta device"
        )
        return
    labelled = 1 if missing else LABELLED
    workload = replace(
        workload.smaller(1),
        head_size=min(labelled, workload.head_size),
        feedback_batch_size=min(labelled, workload.feedback_batch_size),
    )
    say(_tiny_step(config, workload, device))


def _tiny_step(config: VisionConfig, workload: VisionWorkload, device: torch.device) -> str:
    """One step of the arm that trains a designer; what to say of it."""
    began = time.perf_counter()
    encoder = encoder_of(config, pretrained=False)
    learner = objective_of(config, encoder).learner(encoder, config.run.seed)
    modality = Modality(workload, vision_reporting((), retrieval=False), vision_saving())
    designed = [name for name in config.run.arms if ARMS[name].designed]
    arm = designed[0] if designed else "baseline"
    run = start_arm(arm, Assembled(config, learner, modality, device))
    fewer = replace(run.options, accumulate=1, burn_in=0, feedback_bank=None)
    run = replace(run, options=fewer)
    done = micro_batch(run)
    optimizer_step(run)
    workload.stepped(run.state.learner, [done.carried], 0.0)
    value = "" if done.estimate is None else f", value {float(done.estimate.value):.3g}"
    return (
        f"step      one of one picture: loss {done.loss:.4f}{value}, "
        f"{time.perf_counter() - began:.1f} s with building"
    )


def _shapes(
    objective: Objective, learner: nn.Module, batch: UnlabeledBatch, sources: Sequence[VisionData]
) -> dict[str, str]:
    """Shapes of what goes in and comes out, on the meta device."""
    shapes = {"views": _shape(batch.views)}
    if len(batch.locals):
        shapes["locals"] = _shape(batch.locals)
    with torch.no_grad():
        targets, _ = objective.targets(learner, batch, batch.views)
        shapes["targets"] = _shape(targets)
        for name, call in objective.calls(batch, batch.views).items():
            shapes[f"{name} out" if name == "views" else f"{name[:-1]} out"] = _shape(
                learner(*call)
            )
    shapes["labelled"] = ", ".join(
        f"{' x '.join(map(str, source.image_size))} {task}"
        + (f" of {source.classes[task]:,} classes" if task in source.classes else "")
        for source in sources
        for task in source.tasks
    )
    return shapes


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))


def _meta_batch(objective: Objective, pictures: int, config: VisionConfig) -> UnlabeledBatch:
    """A batch of shapes alone; I-JEPA's blocks are drawn, for their sizes."""
    side = config.views.image_size
    drawn = objective.batch([noise(side, side, 0)] * 2, torch.Generator().manual_seed(0))

    def wide(x: Tensor, at: int) -> Tensor:
        shape = [*x.shape[:at], pictures, *x.shape[at + 1 :]]
        return torch.empty(shape, dtype=x.dtype, device="meta")

    blocks = drawn.blocks
    return UnlabeledBatch(
        wide(drawn.views, 1),
        wide(drawn.locals, 1),
        blocks and Blocks(wide(blocks.context, 0), wide(blocks.targets, 0)),
    )


def _sources(config: VisionConfig, patch: int) -> tuple[list[VisionData], str]:
    """The run's data; noise, and why, for public sets that are not there."""
    try:
        return read_data(config, patch), ""
    except UserError as error:
        feedback = config.data.feedback or ()
        if not any(parse_public(name) for name in [*feedback, *(config.data.stream or ())]):
            raise
        side = config.views.image_size
        made = [noise_data(name, label_size(config, name, patch), side) for name in feedback]
        return made, str(error)
