"""Trains linear-BN probes, batch normalisation and a 1x1 convolution, on frozen features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.conditions import EMBEDDED_LEARNER
from vfunc.config.declared import Cases, option, same
from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.conditions import asked
from vfunc.vision.data.batches import IGNORE, LabelledSet, are_known
from vfunc.vision.evaluation.exact_median import median_of
from vfunc.vision.evaluation.held_features import chunks
from vfunc.vision.feedback.head_fits import UNIT, log_frequencies
from vfunc.vision.feedback.head_losses import metres, resize
from vfunc.vision.feedback.heads import HeadOptions

Predictor = Callable[[Tensor, tuple[int, int]], Tensor]
"""Feature maps and a size -> logits (n, k, h, w), or metres (n, h, w)."""


@dataclass(frozen=True)
class ProbeOptions:
    """Options of a frozen evaluation (paper, section on vision: 20,000 steps, batches of 8).

    Attributes:
        layers: number of last blocks whose features dense probes take.
        steps: number of AdamW's steps.
        lr: AdamW's step size times the number of features; it falls linearly to 0.
        weight_decay: AdamW's weight decay, on the convolution's weights.
        batch_size: number of pictures a step.
        seed: seed of the order of the pictures.
        nearest: metres; no depth at or below is measured.
        farthest: metres; no depth at or above is trained on or measured.
        eigen_crop: whether to measure in Eigen's crop alone, as is the custom for NYUv2.
    """

    layers: int = same(HeadOptions, "layers")
    steps: int = option(
        "Steps of the evaluation's segmentation and depth probes.",
        name="probe_steps",
        default=Cases(((EMBEDDED_LEARNER, 200),), 20_000, plain=200),
        least=1,
        needs=(
            asked(
                "segmentation",
                "depth",
                reason="classification alone trains no probe of that kind",
            ),
        ),
    )
    lr: float = option(default=1.0, hidden=True)
    weight_decay: float = option(default=1e-4, hidden=True)
    batch_size: int = option(default=8, hidden=True)
    seed: int = option(default=0, hidden=True)
    nearest: float = option(default=1e-3, hidden=True)
    farthest: float = option(default=10.0, hidden=True)
    eigen_crop: bool = option(default=False, hidden=True)

    def __post_init__(self) -> None:
        if self.layers < 1 or self.steps < 1 or self.batch_size < 1 or self.lr <= 0:
            raise UserError(f"{self}: layers, steps and batch_size from 1, lr above 0")


@typed
def train_probe(
    task: Literal["segmentation", "depth"],
    maps: Float[Tensor, "n d gh gw"],
    pictures: LabelledSet,
    classes: int,
    options: ProbeOptions,
    device: torch.device | str = "cpu",
) -> Predictor:
    """Train a probe at the resolution of the labels.

    Pictures that are all void are left out. The weights start from zero, the output from the
    best constant. Deterministic given the seed; global random state is untouched. No more than a
    batch of features and labels is on the device at a time.

    Args:
        task: cross-entropy of segmentation, or absolute error of depth, through softplus.
        maps: frozen features of the pictures.
        pictures: their labels, at least one of them known.
        classes: number of classes of segmentation.
        options: options of the probe.
        device: the device to train on.

    Returns:
        The trained probe, with the running statistics of its batch normalisation.
    """
    about = _labels_told(task, pictures, classes)
    like = maps[:1].to(device)
    outputs = classes if task == "segmentation" else 1
    norm, linear = nn.BatchNorm2d(maps.shape[1]).to(like), _zero_convolution(like, outputs)
    start = like.new_full((outputs,), UNIT)
    if task == "segmentation":
        start = log_frequencies(about.counts.to(like))
    cast("Tensor", linear.bias).data.copy_(start)

    def predict(x: Tensor, size: tuple[int, int]) -> Tensor:
        z = linear(norm(x.to(device)))
        if task == "segmentation":
            return resize(z, size)
        return resize(metres(z, about.scale), size).squeeze(1)

    def loss(at: Tensor) -> Tensor:
        labels = pictures.labels(task, at.tolist()).to(device)
        predicted = predict(maps[at.to(maps.device)], (labels.shape[1], labels.shape[2]))
        if task == "segmentation":
            return F.cross_entropy(predicted, labels.long(), ignore_index=IGNORE)
        valid = are_known(labels, task)
        return ((predicted - labels).abs() * valid).sum() / (valid.sum() * about.scale)

    with torch.enable_grad():
        _train(norm, linear, loss, about.labelled, options)
    norm.eval()
    return torch.no_grad()(predict)


@dataclass(frozen=True)
class _LabelsTold:
    """Which pictures have labels; how many there are of each class; the median depth, metres."""

    labelled: Tensor
    counts: Tensor
    scale: float = 1.0


def _labels_told(task: str, pictures: LabelledSet, classes: int) -> _LabelsTold:
    """What a probe has to know of all labels, which are read some pictures at a time."""
    labelled, counts = [], torch.zeros(classes, dtype=torch.long)

    def known() -> Iterator[Tensor]:
        for at in chunks(len(pictures)):
            labels = pictures.labels(task, at)
            yield labels[are_known(labels, task)]

    for at in chunks(len(pictures)):
        labels = pictures.labels(task, at)
        valid = are_known(labels, task)
        labelled.append(valid.flatten(1).any(1).cpu())
        if task == "segmentation":
            counts += torch.bincount(labels[valid], minlength=classes).cpu()
    there = torch.cat(labelled).nonzero().squeeze(1)
    return _LabelsTold(there, counts, median_of(known) if task == "depth" else 1.0)


def _train(
    norm: nn.BatchNorm2d,
    linear: nn.Conv2d,
    loss: Callable[[Tensor], Tensor],
    labelled: Tensor,
    options: ProbeOptions,
) -> None:
    rest = [*norm.parameters(), linear.bias]
    optimizer = torch.optim.AdamW(
        [
            {"params": [linear.weight], "weight_decay": options.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ],
        lr=options.lr,
        fused=True,
    )
    order = _order(len(labelled), options)
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.lr / norm.num_features * (1 - step / options.steps)
        optimizer.zero_grad()
        loss(labelled[next(order)]).backward()
        optimizer.step()


def _order(count: int, options: ProbeOptions) -> Iterator[Tensor]:
    """Minibatches of indices, epoch after epoch; the rest of one goes with the next."""
    draw = torch.Generator().manual_seed(options.seed)
    waiting = torch.zeros(0, dtype=torch.long)
    while True:
        while len(waiting) < options.batch_size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=draw)])
        yield waiting[: options.batch_size]
        waiting = waiting[options.batch_size :]


def _zero_convolution(like: Tensor, outputs: int) -> nn.Conv2d:
    # nn.Conv2d as usual would draw from global random state
    made = cast("nn.Conv2d", torch.nn.utils.skip_init(nn.Conv2d, like.shape[1], outputs, 1))
    nn.init.zeros_(made.weight)
    return made.to(like)
