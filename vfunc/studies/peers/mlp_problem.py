"""The problem that all are asked: an MLP's lookahead, with a designer or with weights of data.

d L_down(theta_K) / d phi, theta_K the MLP after K steps of its optimizer from a fresh state. phi
either makes each batch's targets (a designer), or is a weight for each example of every batch,
which is what some can differentiate alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from vfunc import trees
from vfunc.trees import Params

Kind = Literal["sgd", "adam", "adamw"]
Tuned = Literal["designer", "weights"]


@dataclass(frozen=True)
class MlpSizes:
    """Sizes of the MLP and of its batches.

    Attributes:
        layers: how many, all square.
        width: of each.
        batch: examples of a batch.
        rank: width of the designer.
    """

    layers: int
    width: int
    batch: int
    rank: int


SIZES = {"tiny": MlpSizes(3, 8, 4, 2), "scaled": MlpSizes(12, 512, 512, 16)}
"""Sizes by the name of a shape: a look that it works, and twelve layers of 12.6 MB in float32."""


@dataclass(frozen=True)
class Step:
    """The learner's optimizer; SGD has a momentum.

    Attributes:
        kind: which.
        lr: the step size.
        momentum: of SGD.
        betas: of Adam and AdamW.
        eps: of Adam and AdamW: a part of the gradients' own size. At torch's 1e-8 a step from a
            fresh state is a sign, and no float32 has the digits of its derivative: everybody's
            error would be that of the gradients.
        decay: weight decay, of AdamW alone.
    """

    kind: Kind
    lr: float = 1e-3
    momentum: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-5
    decay: float = 0.01


@dataclass(frozen=True)
class Lookahead:
    """The question: theta, phi, K batches, and what they are used by.

    Attributes:
        theta: the MLP's parameters.
        phi: the designer's, or the examples' weights (K, batch).
        inputs: of each batch.
        feedback: labelled inputs.
        labels: their classes.
        step: the learner's optimizer.
        tuned: what phi is.
    """

    theta: Params
    phi: Params
    inputs: tuple[Tensor, ...]
    feedback: Tensor
    labels: Tensor
    step: Step
    tuned: Tuned

    @property
    def steps(self) -> int:
        """K."""
        return len(self.inputs)

    def outputs(self, theta: Params, x: Tensor) -> Tensor:
        """The MLP."""
        return mlp(theta, x)

    def task(self, phi: Params, k: int) -> Params:
        """Inputs, targets and weights of batch k."""
        x = self.inputs[k]
        if self.tuned == "weights":
            return {"x": x, "y": x.roll(1, 0), "weight": phi["weight"][k]}
        return {"x": x, "y": torch.tanh(x @ phi["down"]) @ phi["up"]}

    def inner(self, theta: Params, task: Params) -> Tensor:
        """L_pre."""
        apart = (mlp(theta, task["x"]) - task["y"]).square().mean(-1)
        return (apart * task["weight"]).mean() if "weight" in task else apart.mean()

    def outer(self, theta: Params) -> Tensor:
        """L_down."""
        return F.cross_entropy(mlp(theta, self.feedback), self.labels)


def mlp(theta: Params, x: Tensor) -> Tensor:
    """Linear layers with tanh between them, named `0.weight`, `0.bias`, `1.weight` and so on."""
    last = len(theta) // 2 - 1
    for layer in range(last + 1):
        x = F.linear(x, theta[f"{layer}.weight"], theta[f"{layer}.bias"])
        x = x if layer == last else torch.tanh(x)
    return x


def lookahead(
    sizes: MlpSizes,
    steps: int,
    step: Step,
    tuned: Tuned,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Lookahead:
    """Draw the problem, the same numbers in every dtype: they are those of float32.

    Args:
        sizes: of the MLP and its batches.
        steps: K.
        step: the learner's optimizer.
        tuned: what phi is.
        dtype: what is computed in.
        seed: of the draw.
    """
    drawn = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return (scale * torch.randn(shape, generator=drawn)).to(dtype)

    width = sizes.width
    theta: Params = {}
    for layer in range(sizes.layers):
        theta[f"{layer}.weight"] = normal(width, width, scale=width**-0.5)
        theta[f"{layer}.bias"] = normal(width, scale=0.1)
    inputs = tuple(normal(sizes.batch, width) for _ in range(steps))
    feedback = normal(sizes.batch, width)
    labels = torch.randint(width, (sizes.batch,), generator=drawn)
    if tuned == "weights":
        phi = {"weight": 1 + normal(steps, sizes.batch, scale=0.1)}
    else:
        down, up = (width, sizes.rank), (sizes.rank, width)
        phi = {"down": normal(*down, scale=width**-0.5), "up": normal(*up)}
    return Lookahead(theta, phi, inputs, feedback, labels, step, tuned)


def plain_gradient(asked: Lookahead) -> Params:
    """grad L_pre(theta) on the first batch: the unit of memory."""
    theta = trees.leaves(asked.theta)
    return trees.gradient(asked.inner(theta, trees.detach(asked.task(asked.phi, 0))), theta)
