"""Metrics, retrieval and description of the data of a vision run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from vfunc.learner import mode
from vfunc.modality import Metric
from vfunc.vision.data.soundness import UNREADABLE
from vfunc.vision.data.vision_data import VisionData
from vfunc.vision.evaluation.revisited import Revisited, evaluate_revisited
from vfunc.vision.objectives.objective import encoder_of

LOSS = Metric("loss", "held-out\nloss", outcomes="loss")
METRICS = {
    "retrieval": Metric("retrieval_medium", "mAP\nmedium\n%", "%", True, scale=100.0, digits=1),
    "classification": Metric(
        "linear_accuracy", "linear\n%", "%", True, "linear_correct", scale=100.0, digits=1
    ),
    "depth": Metric("rmse", "RMSE\nm", "m", False, "image_rmse", digits=3),
    "segmentation": Metric("miou", "mIoU\n%", "%", True, "image_iou", scale=100.0, digits=1),
}
"""Metrics by task, in the order of tables; the last of a run's is the primary one."""

_NAMED = 5  # classes that are named in a line


def metrics_of(sources: Sequence[VisionData], *, retrieval: bool) -> tuple[Metric, ...]:
    """The metrics of what these sources hold labels of, the primary one last."""
    held = {task for source in sources for task in source.tasks}
    held |= {"retrieval"} if retrieval else set()
    return (LOSS, *(metric for task, metric in METRICS.items() if task in held))


def retrieved(
    learner: nn.Module, benchmark: Revisited, side: int, device: torch.device
) -> dict[str, float]:
    """mAP of the learner's pooled features, the longer side of a picture `side` pixels at most."""
    with mode(learner, training=False):
        scores = evaluate_revisited(
            lambda images: learner("dense", images, 1).pooled.float(),
            benchmark,
            size=side,
            patch=encoder_of(learner).patch,
            device=device,
        )
    found = scores._asdict().items()
    return {f"retrieval_{name}": score for name, score in found if score is not None}


def described(sources: Sequence[VisionData]) -> list[str]:
    """Where pictures come from, how many there are, and what was left out, in lines."""
    lines = []
    for source in sources:
        said = source.summary
        counts = ", ".join(f"{role} {count:,}" for role, count in said["pictures"].items())
        lines.append(f"{'pictures':9} {said['source']}, {said['split']} split: {counts}")
        carried = [
            role for role, of in said.items() if isinstance(of, Mapping) and "signature" in of
        ]
        if carried:
            lines.append(f"{'':9} a grating of its own in each picture of: {', '.join(carried)}")
        if "layout" in said:
            lines.append(f"{'':9} read as {'; '.join(said['layout'])}{_classes(source)}")
        for reason, found in said.get("left out", {}).items():
            named = f" ({', '.join(found['first'])})" if "first" in found else ""
            lines.append(f"{'':9} {found['count']:,} {reason}{named}")
        for reason, found in said.get("orientation", {}).items():
            lines.append(f"{'':9} {found['count']:,} {reason}")
        skipped = said.get("stream", {}).get("left out", {}).get(UNREADABLE)
        if skipped:
            lines.append(f"{'':9} {skipped:,} {UNREADABLE}, of the stream")
    return lines


def _classes(source: VisionData) -> str:
    names = source.names.get("classification", ())
    shown = ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")
    return f", {len(names)} classes: {shown}" if names else ""
