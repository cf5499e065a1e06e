"""The options of a vision run: its pictures, the self-supervised task, views, dense feedback."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, Literal

from vfunc.conditions import (
    DESIGNED,
    EMBEDDED,
    EMBEDDED_LEARNER,
    GUIDED,
    NEW_DESIGNER,
    SHORTCUT,
    TRAINED,
    any_arm,
)
from vfunc.config.declared import Cases, Computed, Need, Options, option, same
from vfunc.config.partial import Partial
from vfunc.errors import UserError
from vfunc.vision.conditions import (
    EMBEDDED_SCENES,
    MASKS,
    OWN_PICTURES,
    PUBLIC,
    asked,
    makes,
)
from vfunc.vision.designers.view_designer import ViewDesignerConfig
from vfunc.vision.evaluation.probes import ProbeOptions
from vfunc.vision.feedback.heads import HeadOptions
from vfunc.vision.objectives.dino import Dino
from vfunc.vision.objectives.ijepa import IJepa
from vfunc.vision.scenes.scene_look import TEXTURE, Signature
from vfunc.vision.scenes.scene_roles import ROLES, Problem

LABELS = ("segmentation", "depth", "classification")
"""What feedback pictures may be labelled with."""


def _check_labels(labels: tuple[str, ...], where: str) -> None:
    for label in labels:
        if label not in LABELS:
            raise UserError(f"{where}: unknown label {label!r}; known: {', '.join(LABELS)}")
        if labels.count(label) > 1:
            raise UserError(f"{where} names {label} twice")


def _from_folder(options: Options) -> bool:
    """Whether the labels are files of a folder, in the user's own coding."""
    sources = (*(options["feedback"] or ()), options["eval"])
    return any(source is not None and not PUBLIC.fullmatch(source) for source in sources)


def _timm_name(options: Options) -> bool:
    """A directory is told by its separator: `hub:org/model` is a name of timm's too."""
    name = options["learner"]
    return name != EMBEDDED and (":" in name or not re.search(r"[/\\]|^[.~]", name))


def _weight(help: str, label: str) -> Any:
    return option(help, default=1.0, least=0, needs=(asked(label),))


def _check_roles(roles: tuple[str, ...], where: str) -> None:
    for role in roles:
        if role not in ROLES:
            raise UserError(f"{where}: no pictures are for {role!r}; roles: {', '.join(ROLES)}")
        if roles.count(role) > 1:
            raise UserError(f"{where} names {role} twice")


_FOLDERS = Need(_from_folder, OWN_PICTURES.reason)
_SIGNED = Need(lambda options: options["problem"] == "shortcut", "it is for --problem shortcut")


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """The embedded scenes, or pictures of your own by --feedback."""

    stream: tuple[str, ...] | None = option(
        "Unlabeled pictures to train on: a folder, or ade20k, nyuv2 or imagenet: from the Hub, or "
        "with :DIR from a copy.",
        default=None,
        shown="the training pictures of --feedback",
        metavar="SOURCE",
        reads=True,
    )
    feedback: tuple[str, ...] | None = option(
        "Labelled pictures that only the value signal sees: a folder of pictures with label or "
        "depth maps, or of folders named after classes, or a public data set as above. Several are "
        "as many feedback tasks.",
        default=None,
        shown="the embedded scenes",
        metavar="SOURCE [SOURCE ...]",
        reads=True,
    )
    eval: str | None = option(
        "Held-out pictures to evaluate on: a folder like --feedback's.",
        default=None,
        shown="held-out pictures of --feedback",
        metavar="SOURCE",
        reads=True,
    )
    bad_files: Literal["refuse", "skip"] | None = option(
        "Pictures and maps that cannot be read: name them and end, or go on without them and say "
        "how many. All are opened once at the start.",
        default=Computed(
            "refuse",
            lambda options: None if EMBEDDED_SCENES.holds(options) else "refuse",
            "refuse",
        ),
        needs=(OWN_PICTURES,),
    )
    problem: Problem | None = option(
        "The embedded scenes to train on. In shortcut every picture of the stream carries a "
        "signature of its own over its background, a grating, which all its crops share; clean is "
        "the same without; repetitive is an earlier problem, whose backgrounds repeat a patch, "
        "with a learner of 12 blocks. None with --feedback.",
        default=Computed(
            "shortcut", lambda options: "shortcut" if EMBEDDED_SCENES.holds(options) else None
        ),
        needs=(
            Need(
                EMBEDDED_SCENES.holds,
                "it belongs to the embedded scenes, and --feedback brings pictures of your own",
            ),
        ),
    )
    signature_amplitude: float = option(
        "--problem shortcut: amplitude of the grating, in units of the range of colours.",
        default=Signature().amplitude,
        above=0,
        most=1,
        needs=(_SIGNED,),
    )
    signature_period: tuple[float, float] = option(
        "--problem shortcut: range of the grating's period, in pixels.",
        default=Signature().period,
        metavar="LOW HIGH",
        least=2,
        needs=(_SIGNED,),
    )
    signature_roles: tuple[str, ...] = option(
        "--problem shortcut: whose pictures carry the grating, of " + ", ".join(ROLES) + ".",
        default=("stream",),
        metavar="ROLE [ROLE ...]",
        check=_check_roles,
        needs=(_SIGNED,),
    )
    object_texture: float = option(
        "--problem shortcut and clean: amplitude of a fine texture on the digits, which tells "
        "their class and which a blur takes away; 0 is none.",
        default=TEXTURE,
        least=0,
        most=1,
        needs=(Need(SHORTCUT.holds, "it is for --problem shortcut and clean"),),
    )
    stream_size: int | None = option(
        "Embedded: scenes in the stream; it is read again from the start when it ends.",
        default=Computed(
            "4096 scenes", lambda options: 4096 if EMBEDDED_SCENES.holds(options) else None, 4096
        ),
        least=1,
        needs=(
            Need(
                EMBEDDED_SCENES.holds,
                "it belongs to the embedded scenes, and --feedback brings pictures of your own",
            ),
        ),
    )
    eval_split: Literal["validation", "test"] = option(
        "What to evaluate on. Choose settings on validation, report test.", default="test"
    )
    feedback_size: int = option(
        "Feedback examples to use, of each --feedback.", default=512, least=1, needs=(GUIDED,)
    )
    eval_size: int = option(
        "Held-out pictures to evaluate on, at most.",
        default=Cases(((EMBEDDED_SCENES, 256),), 2000),
        least=1,
    )
    stream_side: int | None = option(
        "Pixels that the shorter side of a stream's picture has at most, when crops are cut from "
        "it: pictures are decoded at that size, and more of them fit into memory.",
        default=None,
        shown="as it is stored",
        metavar="PIXELS",
        least=8,
        needs=(OWN_PICTURES,),
    )
    loader_workers: int = option(
        "Threads that read and crop the next micro-batches while the learner steps; 0 makes each "
        "when it is its turn.",
        default=Cases(((EMBEDDED_SCENES, 0),), 4),
        least=0,
        most=256,
    )
    in_memory: float = option(
        "GiB of decoded pictures of the stream, and of labelled pictures with the features of an "
        "evaluation, that are kept in memory, each. Of the stream, others are decoded again; the "
        "rest lies in files without a name in the cache folder ($VFUNC_CACHE).",
        default=2.0,
        metavar="GIB",
        least=0,
    )
    batch_size: int = option(
        "Pictures in a micro-batch.", default=Cases(((EMBEDDED_LEARNER, 32),), 256), least=1
    )
    feedback_batch_size: int = option(
        "Feedback examples in an estimate, shared by the tasks.",
        default=Cases(((EMBEDDED_LEARNER, 64),), 32),
        least=1,
        needs=(GUIDED,),
    )
    normalise_feedback: bool = option(
        "Several --labels: divide each one's loss by its gradient's norm.",
        default=False,
        needs=(
            GUIDED,
            Need(
                lambda options: options["labels"] is None or len(options["labels"]) > 1,
                "there is one feedback task; give several --labels",
            ),
        ),
    )


@dataclass(frozen=True, kw_only=True)
class ViewOptions:
    """The self-supervised task, and the views that are designed for it."""

    image_size: int = same(Dino, "image_size")
    objective: Partial[Dino] | Partial[IJepa] = option(
        "What is learned without labels: DINO matches views of a picture, I-JEPA predicts the "
        "features of hidden blocks.",
        default="dino",
        variants={"dino": Dino, "ijepa": IJepa},
    )
    pretrained: bool = option(
        "Start from the weights that timm has for its model; without, from random ones.",
        default=True,
        needs=(
            Need(
                _timm_name,
                "it is for a model of timm by its name; the embedded learner and directories bring "
                "their weights",
            ),
        ),
    )
    meta_batch_size: int = option(
        "Pictures of a micro-batch that an estimate takes.",
        default=Computed(
            "a quarter of --batch-size, half of it on the problems shortcut and clean",
            lambda options: max(1, options["batch_size"] // (2 if SHORTCUT.holds(options) else 4)),
        ),
        least=1,
        needs=(DESIGNED,),
    )
    design: Partial[ViewDesignerConfig] = option(
        needs=(replace(DESIGNED, spares=("blur",)), NEW_DESIGNER)
    )
    sparsity_penalty: float = option(
        "Masks: weight of the penalty on a mean that is not --keep.",
        default=Cases(((SHORTCUT, 0.0), (EMBEDDED_LEARNER, 0.01)), 0.131),
        least=0,
        needs=(DESIGNED, TRAINED, MASKS),
    )
    tv_penalty: float = option(
        "Masks: weight of the penalty on their total variation.",
        default=Cases(((SHORTCUT, 0.0), (EMBEDDED_LEARNER, 0.003)), 0.144),
        least=0,
        needs=(DESIGNED, TRAINED, MASKS),
    )
    strength_penalty: float = option(
        "--augmentor photometric: weight of the penalty on how far it changes a picture.",
        default=0.1,
        least=0,
        needs=(
            DESIGNED,
            TRAINED,
            Need(
                lambda options: makes(options, "photometric"),
                "it is for --augmentor photometric, and for a saved designer that is photometric",
            ),
        ),
    )
    fixed_alpha: float = option(
        "Share of the blurred picture in every view of uniform_smoothing.",
        default=Cases(((SHORTCUT, 1.0),), 0.5),
        above=0,
        most=1,
        needs=(Need(any_arm(("uniform_smoothing",)), "it is for the arm uniform_smoothing"),),
    )
    oracle_blur: float = option(
        "Share of the blurred picture that the arm oracle puts where less of the picture is worth "
        "more, by the value of its pixels.",
        default=0.3,
        above=0,
        most=1,
        needs=(Need(any_arm(("oracle",)), "it is for the arm oracle"),),
    )


@dataclass(frozen=True, kw_only=True)
class DenseOptions:
    """Dense feedback, and evaluation on the frozen backbone."""

    labels: tuple[str, ...] | None = option(
        "What the feedback is about, and the evaluation: " + ", ".join(LABELS) + ".",
        default=Computed(
            "segmentation and depth on the embedded scenes, else all that --feedback holds",
            lambda options: ("segmentation", "depth") if EMBEDDED_SCENES.holds(options) else None,
        ),
        metavar="LABEL [LABEL ...]",
        check=_check_labels,
    )
    segmentation_weight: float = _weight(
        "Weight of segmentation in the feedback loss.", "segmentation"
    )
    depth_weight: float = _weight("Weight of depth.", "depth")
    classification_weight: float = _weight("Weight of classification.", "classification")
    heads_size: int = option(
        "Labelled pictures, at most, that those of --head-size are drawn from.",
        default=Cases(((EMBEDDED_SCENES, 512),), 2000),
        least=1,
        needs=(GUIDED,),
    )
    head_size: int = option(
        "Labelled pictures that the feedback's heads are fitted on at each designer update.",
        default=Cases(((SHORTCUT, 512), (EMBEDDED_LEARNER, 128)), 64),
        least=1,
        needs=(GUIDED,),
    )
    heads: Partial[HeadOptions]
    label_size: tuple[int, int] | None = option(
        "Height and width that labelled pictures are brought to, rounded down to whole patches.",
        default=None,
        shown="--image-size; of ADE20K 512 512, of NYUv2 480 640",
        metavar="H W",
        least=1,
        needs=(OWN_PICTURES,),
    )
    void_label: int | None = option(
        "Class in a folder's label maps that stands for no class.",
        default=None,
        shown="none",
        needs=(_FOLDERS, asked("segmentation")),
    )
    depth_scale: float = option(
        "Metres a unit of a folder's depth maps.",
        default=0.001,
        above=0,
        needs=(_FOLDERS, asked("depth")),
    )
    retrieval: str | None = option(
        "A folder of the revisited Oxford or Paris benchmark (jpg/ and gnd_*.pkl), to measure "
        "retrieval on at the end.",
        default=None,
        shown="none",
        metavar="DIR",
        reads=True,
    )
    fit_size: int = option(
        "Labelled pictures, at most, that the evaluation's probes are trained on.",
        default=Cases(((EMBEDDED_SCENES, 512),), 2000),
        least=1,
    )
    probes: Partial[ProbeOptions]

    @property
    def weights(self) -> dict[str, float]:
        """The weight of each label in the feedback loss."""
        return {label: getattr(self, f"{label}_weight") for label in LABELS}
