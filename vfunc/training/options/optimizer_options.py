"""The options of the learner that both modalities have, and of its optimizer."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from vfunc.conditions import ADAPTED, EMBEDDED, EMBEDDED_LEARNER, SHORTCUT_LEARNER
from vfunc.config.declared import By, Cases, Need, option
from vfunc.errors import UserError
from vfunc.training.budget import ScheduleShape
from vfunc.training.options.run_options import LANGUAGE, VISION

OptimizerName = Literal[
    "adamw",
    "sgd",
    "adam",
    "nadam",
    "radam",
    "adamax",
    "adagrad",
    "rmsprop",
    "adadelta",
    "adafactor",
    "asgd",
]
WITH_BETAS = ("adamw", "adam", "nadam", "radam", "adamax")
ADAMS_RATE = ("adamw", "adam", "nadam", "radam")
"""Optimizers that share AdamW's default learning rates."""
"""Optimizers that share AdamW's default learning rates."""

_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


def _of_optimizer(*names: str) -> Need:
    listed = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return Need(lambda options: options["optimizer"] in names, f"it is for --optimizer {listed}")


def _check_device(device: str, where: str) -> None:
    if not _DEVICE.fullmatch(device):
        raise UserError(f"{where} must be auto, cpu, cuda or cuda:N, not {device!r}")


@dataclass(frozen=True, kw_only=True)
class LearnerOptions:
    """The model that is trained."""

    learner: str = option(
        "'embedded', the small base that comes with the package; 'smollm2', a pretrained language "
        "model of 135M parameters, downloaded at its first use; or a directory, a GGUF file, or a "
        "model by its name: any causal language model of transformers, or any ViT of timm.",
        default=EMBEDDED,
        metavar="DIR|ID",
        reads=True,
    )
    precision: Literal["float32", "bfloat16"] = option("Of the learner.", default="float32")
    device: str = option(
        "auto (a GPU if there is one), cpu, cuda or cuda:N.",
        default="auto",
        metavar="DEVICE",
        check=_check_device,
    )


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """How the learner takes its steps."""

    optimizer: OptimizerName = option(
        "The learner's optimizer; what has no option here is as torch has it by default.",
        default="adamw",
    )
    lr: float = option(
        "Peak learning rate; none by default for optimizers other than adamw, adam, nadam, radam.",
        default=By(
            "modality",
            {
                LANGUAGE: Cases(((EMBEDDED_LEARNER, 1e-3), (ADAPTED, 2e-4)), 1.5e-5),
                VISION: Cases(((SHORTCUT_LEARNER, 1e-3), (EMBEDDED_LEARNER, 5e-4)), 4.15e-6),
            },
        ),
        above=0,
    )
    betas: tuple[float, float] = option(
        "Decay rates of the first and second moment.",
        default=Cases(((EMBEDDED_LEARNER, (0.9, 0.99)),), (0.9, 0.999)),
        metavar="B1 B2",
        least=0,
        below=1,
        needs=(_of_optimizer(*WITH_BETAS),),
    )
    momentum: float = option(
        "Momentum of sgd and rmsprop.",
        default=0.0,
        least=0,
        below=1,
        needs=(_of_optimizer("sgd", "rmsprop"),),
    )
    weight_decay: float = option(
        "Weight decay (decoupled in adamw and adafactor).",
        default=By("modality", {LANGUAGE: 0.0, VISION: 0.04}),
        least=0,
    )
    clip: float = option("Largest norm of the gradient; 0 never clips.", default=1.0, least=0)
    warmup: float = option(
        "Fraction of the budget over which the learning rate rises.",
        default=By("modality", {LANGUAGE: Cases(((EMBEDDED_LEARNER, 0.05),), 0.03), VISION: 0.05}),
        least=0,
        below=1,
    )
    final_lr: float = option(
        "Learning rate at the end, as a fraction of the peak.",
        default=0.1,
        least=0,
        most=1,
    )
    schedule: ScheduleShape = option(
        "How the learning rate falls after --warmup: linear or cosine to the end, or wsd, where it "
        "stays, and falls linearly over the last --decay of the budget.",
        default="linear",
    )
    decay: float = option(
        "Fraction of the budget over which the learning rate falls, at its end.",
        default=0.2,
        above=0,
        most=1,
        needs=(Need(lambda options: options["schedule"] == "wsd", "it is for --schedule wsd"),),
    )
    accumulate: int = option("Micro-batches in an optimizer step.", default=1, least=1)
