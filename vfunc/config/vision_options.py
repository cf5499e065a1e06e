"""Options of `--modality vision` alone: the self-supervised task, its views, and the feedback.

None of them has a value here: they are None for language, and `vfunc.config.vision_defaults` has
the values that the learner and the data call for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vfunc.config.option import option

LABELS = ("segmentation", "depth", "classification")
"""What feedback pictures may be labelled with."""


@dataclass(frozen=True, kw_only=True)
class VisionTaskOptions:
    """With --modality vision: the self-supervised task, and the views that are designed for it."""

    objective: Literal["dino", "ijepa"] | None = option(
        "What is learned without labels: DINO matches views of a picture, I-JEPA predicts the "
        "features of hidden blocks.",
        shown="dino",
    )
    image_size: int | None = option(
        "Side of the global crops, or of I-JEPA's pictures, in pixels; a multiple of the learner's "
        "patch.",
        shown="64 for the embedded learner, else 224",
        least=1,
    )
    local_size: int | None = option(
        "Side of DINO's local crops, in pixels.",
        shown="32 for the embedded learner, else 96",
        least=1,
    )
    local_crops: int | None = option(
        "DINO's local crops of each picture, beside its 2 global ones; 0 makes none.",
        shown="6",
        least=0,
    )
    output_dim: int | None = option(
        "Outputs of DINO's head.", shown="64 for the embedded learner, else 8192", least=2
    )
    student_temperature: float | None = option(
        "Temperature of DINO's student.", shown="0.1", above=0
    )
    teacher_temperature: float | None = option(
        "Temperature of DINO's teacher.", shown="0.04", above=0
    )
    teacher_momentum: float | None = option(
        "Share of itself that the teacher keeps at each step, at the start; it rises to 1.",
        shown="0.95 for the embedded learner, else 0.996",
        least=0,
        most=1,
    )
    centre_momentum: float | None = option(
        "Share of itself that the centre of DINO's teacher keeps at each step.",
        shown="0.9",
        least=0,
        most=1,
    )
    colour: float | None = option(
        "Strength of the colour jitter of DINO's crops; 1 is that of its authors, 0 none.",
        shown="0.4 on the embedded scenes, else 1",
        least=0,
    )
    pretrained: bool | None = option(
        "Start from the weights that timm has for its model; without, from random ones.",
        shown="yes",
    )
    meta_batch_size: int | None = option(
        "Pictures of a micro-batch that an estimate takes.",
        shown="a quarter of --batch-size",
        least=1,
    )
    augmentor: Literal["unet", "dit", "photometric"] | None = option(
        "What the designer makes: a mask between picture and blurred picture, by a U-Net or a "
        "patchwise transformer; or brightness, contrast, hue and blur of the whole picture.",
        shown="unet",
    )
    keep: float | None = option(
        "Masks: the mean that --sparsity-penalty pulls them to; 1 keeps the whole picture.",
        shown="0.6",
        above=0,
        most=1,
    )
    sparsity_penalty: float | None = option(
        "Masks: weight of the penalty on a mean that is not --keep.",
        shown="0.01 for the embedded learner, else 0.131",
        least=0,
    )
    tv_penalty: float | None = option(
        "Masks: weight of the penalty on their total variation.",
        shown="0.003 for the embedded learner, else 0.144",
        least=0,
    )
    strength_penalty: float | None = option(
        "--augmentor photometric: weight of the penalty on how far it changes a picture.",
        shown="0.1",
        least=0,
    )
    blur: float | None = option(
        "Standard deviation of the blur, as a share of the picture's side.",
        shown="0.05",
        above=0,
        most=1,
    )


@dataclass(frozen=True, kw_only=True)
class VisionFeedbackOptions:
    """With --modality vision: dense feedback, and evaluation on the frozen backbone."""

    labels: tuple[str, ...] | None = option(
        "What the feedback is about, and the evaluation: " + ", ".join(LABELS) + ".",
        shown="segmentation and depth on the embedded scenes, else all that --feedback holds",
        metavar="LABEL [LABEL ...]",
    )
    segmentation_weight: float | None = option(
        "Weight of segmentation in the feedback loss.", shown="1", least=0
    )
    depth_weight: float | None = option("Weight of depth.", shown="1", least=0)
    classification_weight: float | None = option("Weight of classification.", shown="1", least=0)
    heads_size: int | None = option(
        "Labelled pictures, at most, that those of --head-size are drawn from.",
        shown="512 embedded, else 2000",
        least=1,
    )
    head_size: int | None = option(
        "Labelled pictures that the feedback's heads are fitted on at each designer update.",
        shown="128 for the embedded learner, else 64",
        least=1,
    )
    head_steps: int | None = option("Steps of that fit.", shown="50", least=1)
    head_lr: float | None = option(
        "Step size of that fit: the most that a step changes an output, for features of size 1.",
        shown="1",
        above=0,
    )
    feature_layers: int | None = option(
        "Last blocks of the backbone whose features heads and probes read.", shown="1", least=1
    )
    label_size: tuple[int, int] | None = option(
        "Height and width that labelled pictures are brought to, rounded down to whole patches.",
        default=None,
        shown="--image-size; of ADE20K 512 512, of NYUv2 480 640",
        metavar="H W",
        least=1,
    )
    void_label: int | None = option(
        "Class in a folder's label maps that stands for no class.",
        default=None,
        shown="none",
        least=0,
    )
    depth_scale: float | None = option(
        "Metres a unit of a folder's depth maps.", shown="0.001", above=0
    )
    retrieval: str | None = option(
        "A folder of the revisited Oxford or Paris benchmark (jpg/ and gnd_*.pkl), to measure "
        "retrieval on at the end.",
        default=None,
        shown="none",
        metavar="DIR",
    )
    fit_size: int | None = option(
        "Labelled pictures, at most, that the evaluation's probes are trained on.",
        shown="512 embedded, else 2000",
        least=1,
    )
    probe_steps: int | None = option(
        "Steps of the evaluation's segmentation and depth probes.",
        shown="200 for the embedded learner, else 20000",
        least=1,
    )
