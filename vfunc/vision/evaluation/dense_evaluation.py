"""Evaluates a learner on the labelled pictures of all sources of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from vfunc.storage.overflow import Overflow
from vfunc.vision.data.batches import LabelledSet
from vfunc.vision.data.vision_data import VisionData
from vfunc.vision.evaluation.frozen_evaluation import ProbeOptions, fitted_loss, probed
from vfunc.vision.evaluation.held_features import held_features
from vfunc.vision.evaluation.metrics import retrieved
from vfunc.vision.evaluation.revisited import Revisited
from vfunc.vision.feedback.heads import HeadOptions
from vfunc.vision.loading.sized_pictures import FirstOf
from vfunc.workload import Evaluation

Asked = tuple[VisionData, Mapping[str, float], Mapping[str, LabelledSet]]
"""A source, the weights of its tasks in L_down, and its pictures by role."""


@dataclass(frozen=True)
class DenseEvaluation:
    """What is measured of a learner whose features are frozen.

    Attributes:
        heads: options of the heads' fit, for the loss.
        probes: options of the probes.
        fit_size: pictures of a source that heads and probes are fitted on, at most.
        eval_size: pictures that they are measured on, at most.
        overflow: the memory that features may take.
        retrieval: a benchmark of instance retrieval to measure on at the end, or None.
    """

    heads: HeadOptions
    probes: ProbeOptions
    fit_size: int
    eval_size: int
    overflow: Overflow
    retrieval: Revisited | None

    def of(
        self, learner: nn.Module, sources: Sequence[Asked], device: torch.device, *, final: bool
    ) -> Evaluation:
        """The loss of fitted heads on held-out pictures; `final` adds probes and retrieval.

        Of several sources the loss is the sum, which no picture has a share in of its own.
        """
        metrics: dict[str, float] = {"loss": 0.0, "loss_examples": 0}
        outcomes: dict[str, tuple[float, ...]] = {}
        for source, weights, held in sources:
            asked = any(weights.values())
            tasks = tuple(
                dict.fromkeys((*(weights if asked else ()), *(source.tasks if final else ())))
            )
            if not tasks:
                continue
            sets = FirstOf(held["fit"], self.fit_size), FirstOf(held["test"], self.eval_size)
            classes, layers = source.classes, self.heads.layers
            seen, new = (
                held_features(learner, some, layers, sorted(tasks), classes, self.overflow)
                for some in sets
            )
            if asked:
                quick = fitted_loss(seen, new, weights, classes, self.heads, self.overflow)
                metrics["loss"] += quick.metrics["loss"]
                metrics["loss_examples"] += len(new)
                if len(sources) == 1:
                    outcomes |= quick.outcomes
            if final:
                frozen = probed(seen, new, source.tasks, classes, self.probes)
                metrics |= frozen.metrics
                outcomes |= frozen.outcomes
        if final and self.retrieval is not None:
            side = 4 * sources[0][0].image_size[1]
            metrics |= retrieved(learner, self.retrieval, side, device)
        return Evaluation(metrics, outcomes)
