"""Masks in closed form, from the value of each pixel: what a designer of views is measured against.

The first-order value of a mask near mu = 1, the picture as it is, is that of the picture plus
<dV/dmu, mu - 1>, V = <g_down, g_pre>: most is won to first order by blurring where dV/dmu is
negative. A step of some size is another matter, and so the oracle blurs by a share.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from vfunc.problem import Task, construct_task
from vfunc.pullback import pull_back
from vfunc.simulate import SGD, UpdateRule
from vfunc.trees import Params, Scalar
from vfunc.typecheck import typed
from vfunc.vision.data.batches import UnlabeledBatch
from vfunc.vision.designers.view_designer import ViewDesigner
from vfunc.vision.designers.views import masked_crops
from vfunc.vision.learner import ObservedViews, VisionLearner
from vfunc.vision.value_problem import vision_problem

CELLS = 8
"""Cells along a side, in each of which an oracle keeps the picture or blurs it."""

Masks = Float[Tensor, "g b 1 h w"]


@typed
def pixel_values(
    estimated: VisionLearner, batch: UnlabeledBatch, g_down: Params, sigma: float
) -> Masks:
    """dV/dmu of every view at mu = 1: what more of a pixel is worth, along g_down.

    Args:
        estimated: the learner as estimates see it.
        batch: unlabeled crops.
        g_down: gradient of L_down at the learner's parameters in S.
        sigma: standard deviation of the blur, pixels.

    Returns:
        Derivatives of <g_down, g_pre>, g_pre of all crops of the batch, without a graph.
    """

    def zero(theta: Params) -> Scalar:  # g_down is given: nobody asks
        return torch.zeros(())

    def construct(phi: Params, observed: ObservedViews) -> Task:
        seen = masked_crops(observed.batch.views, phi["mask"], sigma)
        return estimated.task(seen, observed)

    rule = UpdateRule(SGD(1.0))
    problem = vision_problem(estimated, nn.Module(), (ObservedViews(batch),), zero, rule, {})
    problem = replace(problem, construct=construct)
    with torch.enable_grad():
        phi = {"mask": torch.ones_like(batch.views[:, :, :1])}
        construction = construct_task(problem, phi, problem.batches[0])
        pulled = pull_back(problem, estimated.functional.theta, construction, g_down)
    return pulled.grad["mask"].detach()


@typed
def worth_keeping(values: Masks) -> Masks:
    """Of `CELLS` x `CELLS` cells a view 1 where more of the picture is worth something, else 0."""
    cells = F.adaptive_avg_pool2d(values.flatten(0, 1), (CELLS, CELLS))
    kept = F.interpolate((cells >= 0).to(values), values.shape[-2:], mode="nearest")
    return kept.unflatten(0, values.shape[:2])


@typed
def values_of_masks(
    estimated: VisionLearner,
    designer: ViewDesigner,
    batch: UnlabeledBatch,
    g_down: Params,
    sigma: float,
) -> dict[str, float]:
    """V of a batch by its masks, to first order in mu and less V of the pictures as they are.

    Args:
        estimated: the learner as estimates see it.
        designer: the designer of views.
        batch: unlabeled crops.
        g_down: gradient of L_down at the learner's parameters in S.
        sigma: standard deviation of the blur, pixels.

    Returns:
        Of no blur (`text`, 0), of the `designer`'s masks, and of those that keep or blur whole
        cells, the best by their value (`oracle`). Empty for photometric views, of which none is
        known to be the best.
    """
    if not designer.config.masks:
        return {}
    worth = pixel_values(estimated, batch, g_down, sigma)
    with torch.no_grad():
        mu = designer.control(batch.views.flatten(0, 1)).unflatten(0, batch.views.shape[:2])
    masks = {"text": torch.ones_like(worth), "designer": mu, "oracle": worth_keeping(worth)}
    return {name: float((worth * (mask - 1)).sum()) for name, mask in masks.items()}
