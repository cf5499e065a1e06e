"""Reports of a vision run, and files of its learner and designer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from vfunc.designer_file import save_designer
from vfunc.modality import Reporting, Saving
from vfunc.vision.data.vision_data import VisionData
from vfunc.vision.encoder.encoder_file import save_encoder
from vfunc.vision.evaluation.metrics import described, metrics_of
from vfunc.vision.objectives.objective import encoder_of
from vfunc.vision.value_map import draw_value_map


def vision_reporting(
    sources: Sequence[VisionData], *, retrieval: bool, lowered: Sequence[str] = ()
) -> Reporting:
    """The report's side of a vision run.

    Args:
        sources: the labelled pictures.
        retrieval: whether instance retrieval is measured.
        lowered: requests above what there is, in words.
    """
    return Reporting(
        unit="images",
        metrics=metrics_of(sources, retrieval=retrieval),
        lines=(*described(sources), *(f"{'':9} {words}" for words in lowered)),
        data={"sources": [dict(source.summary) for source in sources]},
        draw_map=draw_value_map,
    )


def vision_saving() -> Saving:
    """Learners are written as their student's encoder, which timm loads."""

    def save_learner(learner: nn.Module, path: Path) -> None:
        save_encoder(encoder_of(learner), path)

    return Saving(save_learner, save_designer)
