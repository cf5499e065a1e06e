"""Computes outputs and losses of light heads, twice differentiable in dense features.

A head is one linear map (a 1x1 convolution for the dense tasks), constant as far as theta is
concerned. `vfunc.vision.feedback.heads` fits it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.batches import FIELDS, IGNORE, LabelledBatch, are_known, labels_of
from vfunc.vision.encoder.dense_features import DenseFeatures

TASKS = tuple(FIELDS)

FLOOR = 1e-3
"""Smallest predicted depth, in metres."""


class LossSums(NamedTuple):
    """One task's loss, picture by picture.

    Attributes:
        total: sums of the loss over each picture's labels.
        count: numbers of labelled pixels (or pictures).
    """

    total: Float[Tensor, " b"]
    count: Float[Tensor, " b"]  # pyright: ignore[reportIncompatibleMethodOverride]  no one counts entries


@dataclass(frozen=True)
class Head:
    """x -> weight x + bias; `scale` in metres for depth. Without a graph."""

    weight: Float[Tensor, "k d"]
    bias: Float[Tensor, " k"]
    scale: float = 1.0


@dataclass(frozen=True)
class Heads:
    """Heads by task, and the number of last blocks whose features they take."""

    layers: int
    by_task: Mapping[str, Head]


@typed
def widened(dense: DenseFeatures) -> DenseFeatures:
    """The same in float32 at least."""
    return DenseFeatures(_wide(dense.pooled), _wide(dense.maps))


@typed
def loss_sums(heads: Heads, dense: DenseFeatures, batch: LabelledBatch) -> dict[str, LossSums]:
    """Every head's loss on a learner's dense features, picture by picture.

    Cross-entropy (nats) where a class is known, absolute error (metres) where depth is. In
    float32 at least, under autocast too. What is void contributes nothing.

    Args:
        heads: the heads, constants.
        dense: the learner's features of the batch's images.
        batch: labels of every head's task.

    Returns:
        The sums by task.
    """
    features = widened(dense)
    with torch.autocast(features.maps.device.type, enabled=False):
        return {task: _sums(task, head, features, batch) for task, head in heads.by_task.items()}


@typed
def predict(
    task: str, head: Head, features: DenseFeatures, size: tuple[int, int] | torch.Size = (1, 1)
) -> Tensor:
    """Applies a head: logits (n, k, h, w), metres (n, h, w), or a picture's logits (n, k).

    Logits, and metres, are interpolated bilinearly from the tokens to `size`.
    """
    if task == "classification":
        return F.linear(features.pooled, head.weight, head.bias)
    z = torch.einsum("kd,ndij->nkij", head.weight, features.maps) + head.bias[:, None, None]
    if task == "segmentation":
        return resize(z, size)
    return resize(metres(z, head.scale), size).squeeze(1)


def metres(z: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """Depth in metres from the output of a depth head's linear map."""
    return scale * F.softplus(z) + FLOOR


@typed
def resize(
    x: Float[Tensor, "n k a b"], size: tuple[int, int] | torch.Size
) -> Float[Tensor, "n k h w"]:
    """Bilinear interpolation: `F.interpolate(..., align_corners=False)` to rounding.

    As two matrix products: deterministic on an accelerator, where the backward pass of
    `F.interpolate` is not, and three times as fast on a CPU.
    """
    rows, columns = (_interpolation(n, m, x) for n, m in zip(x.shape[-2:], size, strict=True))
    return rows @ x @ columns.mT


@typed
def known(batch: LabelledBatch, task: str) -> Bool[Tensor, "b *shape"]:
    """Where the batch's labels for a task are known."""
    return are_known(labels_of(batch, task), task)


@dataclass
class LabelCheck:
    """Checks the labels of pictures that come some at a time.

    Attributes:
        tasks: tasks, of `TASKS`.
        classes: number of classes by task.
    """

    tasks: Sequence[str]
    classes: Mapping[str, int]
    _pictures: int = 0
    _found: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise UserError(f"no feedback tasks: ask for some of {', '.join(TASKS)}")

    def see(self, batch: LabelledBatch) -> None:
        """Take note of some pictures.

        Raises:
            UserError: they have no labels of a task, or labels beyond the number of classes.
        """
        self._pictures += len(batch)
        for task in self.tasks:
            labels = labels_of(batch, task)
            valid = are_known(labels, task)
            if not bool(valid.any()):
                continue
            if task == "depth":
                self._found[task] = (0, 0)
                continue
            low, high = (int(x) for x in labels[valid].aminmax())
            before = self._found.get(task, (low, high))
            low, high = min(low, before[0]), max(high, before[1])
            self._found[task] = (low, high)
            if low < 0 or high >= self.classes[task]:
                raise UserError(
                    f"{task} labels go from {low} to {high}, but there are {self.classes[task]} "
                    f"classes, 0 to {self.classes[task] - 1} (void is {IGNORE})"
                )

    def end(self) -> None:
        """All have been seen.

        Raises:
            UserError: the labels of a task are all void.
        """
        for task in self.tasks:
            if task not in self._found:
                raise UserError(
                    f"all {self._pictures} labelled pictures are void for {task}, and no head can "
                    "be fitted to them: take more of them, or other ones"
                )


@typed
def require_labels(batch: LabelledBatch, tasks: Sequence[str], classes: Mapping[str, int]) -> None:
    """Check that the batch has labels for every task, within the number of classes.

    Args:
        batch: labelled pictures.
        tasks: tasks, of `TASKS`.
        classes: number of classes by task.

    Raises:
        UserError: a task's labels are missing, all void, or beyond the number of classes.
    """
    check = LabelCheck(tasks, classes)
    check.see(batch)
    check.end()


def _sums(task: str, head: Head, features: DenseFeatures, batch: LabelledBatch) -> LossSums:
    labels, valid = labels_of(batch, task), known(batch, task)
    predicted = predict(task, head, features, labels.shape[-2:])
    if task == "depth":
        loss = (predicted - labels).abs() * valid
    else:
        loss = F.cross_entropy(predicted, labels.long(), ignore_index=IGNORE, reduction="none")
    count = valid.reshape(len(batch), -1).sum(1).to(loss.dtype)
    return LossSums(loss.reshape(len(batch), -1).sum(1), count)


def _interpolation(n: int, m: int, like: Tensor) -> Tensor:
    """The (m, n) matrix of linear interpolation from n cells to m, by their centres."""
    at = (torch.arange(m, device=like.device, dtype=like.dtype) + 0.5) * (n / m) - 0.5
    distance = at.clamp(0, n - 1)[:, None] - torch.arange(n, device=like.device)
    return (1 - distance.abs()).clamp(min=0)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
