"""Fits the heads of the feedback: small, deterministic, refitted at every meta step."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.config.declared import option
from vfunc.errors import UserError
from vfunc.learner import mode
from vfunc.trees import Scalar
from vfunc.typecheck import typed
from vfunc.vision.data.batches import LabelledBatch
from vfunc.vision.encoder.dense_features import DenseFeatures
from vfunc.vision.feedback.head_fits import FITS, Losses
from vfunc.vision.feedback.head_losses import Head, Heads, require_labels, widened

EPSILON = 1e-5
"""Added to variances, as batch normalisation does."""


@dataclass(frozen=True)
class HeadOptions:
    """Options of the fit of the feedback's heads.

    Attributes:
        layers: number of last blocks whose features they take.
        steps: number of AdamW's steps, on the whole batch.
        lr: the most that a step changes an output, for features that are all of size 1: AdamW's
            own times their number. It falls linearly to 0.
        weight_decay: decay of the weights of the standardised features, which shrink by this share
            times `lr` at a step.
    """

    layers: int = option(
        "Last blocks of the backbone whose features heads and probes read.",
        name="feature_layers",
        default=1,
        least=1,
    )
    steps: int = option("Steps of that fit.", name="head_steps", default=50, least=1)
    lr: float = option(
        "Step size of that fit: the most that a step changes an output, for features of size 1.",
        name="head_lr",
        default=1.0,
        above=0,
    )
    weight_decay: float = option(default=0.05, hidden=True)

    def __post_init__(self) -> None:
        if self.layers < 1 or self.steps < 1 or self.lr <= 0 or self.weight_decay < 0:
            raise UserError(f"{self}: layers and steps from 1, lr above 0, weight_decay from 0")


@typed
def frozen_features(
    learner: nn.Module, images: Float[Tensor, "n 3 h w"], layers: int, chunk: int = 64
) -> DenseFeatures:
    """Features without a graph, in eval mode; the learner is left as it was.

    Args:
        learner: `learner("dense", images, layers)` gives `pooled` and `maps`.
        images: sRGB in [0, 1].
        layers: number of last blocks.
        chunk: number of pictures at a time.
    """
    with torch.no_grad(), mode(learner, training=False):
        chunks = [widened(learner("dense", x, layers)) for x in images.split(chunk)]
    return DenseFeatures(torch.cat([p.pooled for p in chunks]), torch.cat([p.maps for p in chunks]))


@typed
def fit_heads(
    learner: nn.Module,
    batch: LabelledBatch,
    tasks: Sequence[str],
    classes: Mapping[str, int],
    options: HeadOptions,
) -> Heads:
    """Fit heads on labelled pictures, the backbone frozen (paper, section on vision, step 1).

    The learner's parameters, gradients and buffers are untouched, and so is global random state.

    Args:
        learner: see `frozen_features`.
        batch: labelled pictures.
        tasks: tasks to fit heads for.
        classes: number of classes by task.
        options: options of the fit.

    Raises:
        UserError: the batch has no labels for a task (see `require_labels`).
    """
    require_labels(batch, tasks, classes)
    features = frozen_features(learner, batch.images, options.layers)
    return fit_on_features(features, batch, tasks, classes, options)


@typed
def fit_on_features(
    features: DenseFeatures,
    batch: LabelledBatch,
    tasks: Sequence[str],
    classes: Mapping[str, int],
    options: HeadOptions,
) -> Heads:
    """Fit heads on features that are known.

    Features are standardised by mean and variance over the pictures that are not void for the
    task; AdamW goes over the whole batch, from zero weights. Deterministic. At the resolution of
    the tokens: see `vfunc.vision.feedback.head_fits` for what is minimised.

    Args:
        features: features of the batch's images, without a graph.
        batch: labels, checked by `require_labels`.
        tasks: tasks to fit heads for.
        classes: number of classes by task.
        options: options of the fit.

    Returns:
        Heads with the standardisation folded in.
    """
    with torch.enable_grad(), torch.autocast(features.maps.device.type, enabled=False):
        heads = {}
        for task in tasks:
            fit = FITS[task](features, batch, classes.get(task, 1))
            part = FitPart(lambda fit=fit: fit.x, lambda fit=fit: fit.labels)
            heads[task] = fitted([part], fit.start, fit.losses, fit.total, fit.scale, options)
    return Heads(options.layers, heads)


@dataclass(frozen=True)
class FitPart:
    """What some of the pictures add to a head's fit.

    Attributes:
        x: gives their features, rows (n, d), on the device of the fit.
        labels: gives what enters of their labels (`HeadFit.labels`), there too.
    """

    x: Callable[[], Tensor]
    labels: Callable[[], tuple[Tensor, ...]]


@typed
def fitted(
    parts: Sequence[FitPart],
    start: Float[Tensor, " k"],
    losses: Losses,
    total: Scalar,
    scale: float,
    options: HeadOptions,
) -> Head:
    """Fit a head on all pictures together, of which no more than a part has to be there at once.

    Args:
        parts: the pictures; each part is asked for once or twice, and at each step of AdamW.
        start: the initial bias.
        losses: see `HeadFit`.
        total: of all parts.
        scale: scale of the `Head`.
        options: options of the fit.
    """
    mean, std = _moments(parts)
    alone = (parts[0].x() - mean) / std if len(parts) == 1 else None
    weight = mean.new_zeros(len(start), len(mean), requires_grad=True)
    bias = start.clone().requires_grad_()
    decayed = {"params": [weight], "weight_decay": options.weight_decay * len(mean)}
    optimizer = torch.optim.AdamW(
        [decayed, {"params": [bias], "weight_decay": 0.0}], lr=options.lr, fused=True
    )
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.lr / len(mean) * (1 - step / options.steps)
        grads = None
        for part in parts:
            x = (part.x() - mean) / std if alone is None else alone
            loss = losses(F.linear(x, weight, bias), part.labels(), scale) / total
            own = torch.autograd.grad(loss, [weight, bias])
            grads = own if grads is None else [a + b for a, b in zip(grads, own, strict=True)]
        assert grads is not None
        weight.grad, bias.grad = grads
        optimizer.step()
    folded = weight.detach() / std
    return Head(folded, bias.detach() - folded @ mean, scale)


def _moments(parts: Sequence[FitPart]) -> tuple[Tensor, Tensor]:
    """Mean of the features over all rows, and their standard deviation."""
    if len(parts) == 1:
        variance, mean = torch.var_mean(parts[0].x(), 0, correction=0)
        return mean, (variance + EPSILON).sqrt()
    sums = [(x.double().sum(0), len(x)) for x in (part.x() for part in parts)]
    count = sum(n for _, n in sums)
    mean = torch.stack([x for x, _ in sums]).sum(0) / count
    squares = torch.stack([((part.x().double() - mean) ** 2).sum(0) for part in parts])
    dtype = parts[0].x().dtype
    return mean.to(dtype), (squares.sum(0) / count + EPSILON).sqrt().to(dtype)
