"""`--dry-run` of a vision run: the whole architecture with random weights, and one tiny step.

What does not fit the machine is built on the meta device, where tensors have shapes and no numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from rich.console import Console
from torch import Tensor, nn

from vfunc.errors import UserError
from vfunc.pullback.memory import free_bytes
from vfunc.training.arms import ARMS, estimator_of
from vfunc.training.assemble import pick_device, step_options
from vfunc.training.config import RunConfig
from vfunc.training.resolve import estimator_options
from vfunc.training.state import new_arm_state
from vfunc.training.step import micro_batch, optimizer_step
from vfunc.training.vision_assembly import (
    encoder_of,
    label_size,
    objective_of,
    read_data,
    workload_of,
)
from vfunc.vision.batches import Blocks, UnlabeledBatch
from vfunc.vision.data import Example, VisionData
from vfunc.vision.learner import count_parameters
from vfunc.vision.objective import Objective
from vfunc.vision.public import parse_public
from vfunc.vision.workload import described

TINY = 2
"""Pictures of the one step."""

GIB = 2**30


@dataclass(frozen=True)
class Estimated:
    """What a plain step needs, in bytes.

    Attributes:
        weights: student and teacher.
        optimizer: gradients, and the optimizer's state.
        activations: what the student's forward keeps for its backward, in float32.
    """

    weights: int
    optimizer: int
    activations: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.optimizer + self.activations


def vision_dry_run(config: RunConfig, console: Console) -> None:
    """Build what a run would, with random weights, and say what it is; train nothing to keep.

    Public data sets need not be there: noise takes their place.

    Args:
        config: resolved.
        console: where to print.

    Raises:
        UserError: something does not fit together, or data of one's own cannot be read.
    """

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    device = pick_device(config.learner.device)
    encoder = encoder_of(config, pretrained=False, device="meta")
    objective = objective_of(config, encoder)
    learner = objective.learner(encoder, config.run.seed)
    sources, lines = _sources(config, encoder.patch)
    workload = workload_of(config, encoder, sources, device)
    designer = workload.new_designer()
    student = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    say(
        f"learner   {config.learner.learner}: encoder {count_parameters(encoder):,} parameters; "
        f"{student:,} trained in all, {count_parameters(learner) - student:,} of the teacher; "
        f"designer {count_parameters(designer):,}"
    )
    for line in lines:
        say(line)
    batch = _meta_batch(objective, workload.batch_size, config)
    for name, shape in _shapes(objective, learner, batch).items():
        say(f"{name:9} {shape}")
    one = _meta_batch(objective, 1, config)
    needed = estimated(config, learner, objective, one, workload.batch_size)
    say(
        f"memory    a plain step about {needed.total / GIB:.1f} GiB: weights "
        f"{needed.weights / GIB:.1f}, gradients and optimizer {needed.optimizer / GIB:.1f}, "
        f"activations {needed.activations / GIB:.1f} for {workload.batch_size} pictures in float32"
    )
    tiny = needed.weights + needed.optimizer + TINY * needed.activations // workload.batch_size
    # copies of S, the estimate's own graph, kernels' workspaces
    tiny, free = int(1.5 * tiny), free_bytes(device)
    if tiny > free:
        say(
            f"step      not taken: even {TINY} pictures need about {tiny / GIB:.1f} GiB, and "
            f"{free / GIB:.1f} are free on {device}; shapes are from the meta device"
        )
        return
    say(_tiny_step(config, sources, device))


def estimated(
    config: RunConfig, learner: nn.Module, objective: Objective, one: UnlabeledBatch, pictures: int
) -> Estimated:
    """What a plain step needs, from a forward of one picture on the meta device."""
    trained = sum(p.numel() for p in learner.parameters() if p.requires_grad)
    copies = 3 if config.optimizer.optimizer == "adamw" else 2 if config.optimizer.momentum else 1
    with _counting_saved() as saved:
        for call in objective.calls(one, one.views).values():
            learner(*call)
    weights = sum(p.numel() * p.element_size() for p in learner.parameters())
    return Estimated(weights, 4 * copies * trained, pictures * sum(saved.values()))


def _tiny_step(config: RunConfig, sources: Sequence[VisionData], device: torch.device) -> str:
    """One step of the arm that trains a designer, on a few pictures; what to say of it."""
    began = time.perf_counter()
    encoder = encoder_of(config, pretrained=False)
    learner = objective_of(config, encoder).learner(encoder, config.run.seed)
    workload = workload_of(config, encoder, sources, device).smaller(TINY)
    designed = [ARMS[name] for name in config.run.arms if ARMS[name].designed]
    arm = designed[0] if designed else ARMS["baseline"]
    state = new_arm_state(
        learner,
        config.estimator.align,
        config.optimizer,
        workload.new_designer() if arm.designed else None,
        config.designer.designer_lr,
        device,
    )
    options = replace(step_options(config), accumulate=1, burn_in=0)
    estimator = estimator_of(arm, config.estimator.estimator, estimator_options(config))
    done = micro_batch(arm, state, workload, estimator, options)
    optimizer_step(arm, state, options)
    workload.stepped(state.learner, [done.carried], 0.0)
    value = "" if done.estimate is None else f", value {float(done.estimate.value):.3g}"
    return (
        f"step      one of {TINY} pictures: loss {done.loss:.4f}{value}, "
        f"{time.perf_counter() - began:.1f} s with building"
    )


def _shapes(objective: Objective, learner: nn.Module, batch: UnlabeledBatch) -> dict[str, str]:
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
    return shapes


def _shape(x: Tensor) -> str:
    return " x ".join(map(str, x.shape))


def _meta_batch(objective: Objective, pictures: int, config: RunConfig) -> UnlabeledBatch:
    """A batch of shapes alone; I-JEPA's blocks are drawn, for their sizes."""
    noise = [_noise(config.views.image_size, config.views.image_size, 0)] * 2
    drawn = objective.batch(noise, torch.Generator().manual_seed(0))

    def wide(x: Tensor, at: int) -> Tensor:
        shape = [*x.shape[:at], pictures, *x.shape[at + 1 :]]
        return torch.empty(shape, dtype=x.dtype, device="meta")

    blocks = drawn.blocks
    return UnlabeledBatch(
        wide(drawn.views, 1),
        wide(drawn.locals, 1),
        blocks and Blocks(wide(blocks.context, 0), wide(blocks.targets, 0)),
    )


@contextmanager
def _counting_saved() -> Iterator[dict[int, int]]:
    """Bytes that graphs made in the context keep for their backward pass, by storage."""
    sizes: dict[int, int] = {}
    kept: list[Tensor] = []  # so that no storage is counted as another's

    def pack(x: Tensor) -> Tensor:
        if x.grad_fn is not None:
            kept.append(x)
            storage = x.untyped_storage()
            sizes[storage._cdata] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        yield sizes


def _sources(config: RunConfig, patch: int) -> tuple[list[VisionData], list[str]]:
    """The run's data and what to say of them; noise for public sets that are not there."""
    try:
        found = read_data(config, patch)
        return found, described(found)
    except UserError as error:
        names = [*(config.data.feedback or ()), *(config.data.stream or ())]
        if not any(parse_public(name) for name in names):
            raise
        made = [_made_up(name, config, patch) for name in config.data.feedback or ()]
        return made, [f"{'pictures':9} noise in their place: {error}"]


@dataclass(frozen=True)
class _Noise:
    """Labelled noise, of what a public set holds."""

    task: str
    classes: int
    size: tuple[int, int]
    count: int = 64

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Example:
        image = _noise(*self.size, index)
        coarse = image[0] // 32
        return Example(
            image,
            segmentation=coarse.long() % self.classes if self.task == "segmentation" else None,
            depth=0.5 + coarse.float() if self.task == "depth" else None,
            label=index % self.classes if self.task == "classification" else None,
            name=f"noise {index}",
        )


@dataclass(frozen=True)
class _NoisePictures:
    """The same without labels."""

    size: tuple[int, int]
    count: int = 64

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Tensor:
        return _noise(*self.size, index)


def _made_up(name: str, config: RunConfig, patch: int) -> VisionData:
    public = parse_public(name)
    if public is None:
        raise UserError(f"--dry-run: {name} is read with the other sources, which are not there")
    task, classes = {
        "ade20k": ("segmentation", 150),
        "nyuv2": ("depth", 1),
        "imagenet": ("classification", 1000),
    }[public[0]]
    size = label_size(config, name, patch)
    held = _Noise(task, classes, size)
    return VisionData(
        stream=_NoisePictures((config.views.image_size,) * 2),
        heads=held,
        feedback=held,
        held_out=held,
        fit=held,
        test=held,
        tasks=(task,),
        classes={} if task == "depth" else {task: classes},
        image_size=size,
        summary={"source": "noise", "split": "test", "pictures": {}},
    )


def _noise(height: int, width: int, seed: int) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=draw)
