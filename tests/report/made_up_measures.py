"""What runs are measured in: of a language model, and of a made-up vision learner."""

from __future__ import annotations

from vfunc.language.reporting import METRICS
from vfunc.modality import Metric
from vfunc.report.measures import Measures

LANGUAGE = Measures("tokens", METRICS)
VISION = Measures(
    "images",
    (
        Metric("loss", "held-out\nloss", outcomes="loss"),
        Metric("miou", "mIoU\n%", "%", True, outcomes="picture_iou", scale=100.0, digits=1),
        Metric("rmse", "RMSE\nm", "m", outcomes="rmse", digits=3),
        Metric("linear", "linear\naccuracy\n%", "%", True, scale=100.0, digits=1),
    ),
)
