"""Which options do something with `--modality vision`, and which contradict each other."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from vfunc.config.method_options import EMBEDDED
from vfunc.config.rule import DESIGNED_ARMS, NEEDS_DESIGNER, Options, Rule, any_arm
from vfunc.config.vision_options import LABELS
from vfunc.errors import UserError

VISION_ARMS = ("baseline", "vpretraining", "random_feedback", "uniform_smoothing")
MASKS = ("unet", "dit")
PUBLIC = re.compile(r"(ade20k|nyuv2|imagenet)(:.*)?")
"""A public data set in `--stream`, `--feedback` or `--eval`, and the folder of a copy."""


def _from_folder(options: Options) -> bool:
    """Whether the labels are files of a folder, in the user's own coding."""
    sources = (*(options["feedback"] or ()), options["eval"])
    return any(source is not None and not PUBLIC.fullmatch(source) for source in sources)


def _asked(options: Options, *labels: str) -> bool:
    """Whether feedback is about one of these, as far as the options tell."""
    return options["labels"] is None or any(label in options["labels"] for label in labels)


def _timm_name(options: Options) -> bool:
    """A directory is told by its separator: `hub:org/model` is a name of timm's too."""
    name = options["learner"]
    return name != EMBEDDED and (":" in name or not re.search(r"[/\\]|^[.~]", name))


def _makes(options: Options, *augmentors: str) -> bool:
    """Whether the designer is of such a kind, or a saved one, whose kind its file tells."""
    return options["designer"] is not None or options["augmentor"] in augmentors


_NOT_ASKED = "--labels leaves its task out"
_FOLDERS = "it is for folders; give --feedback DIR"

VISION_RULES = (
    Rule(
        ("stream_size",),
        lambda options: options["feedback"] is None,
        "it belongs to the embedded scenes, and --feedback brings pictures of your own",
    ),
    Rule(
        (
            "local_size",
            "local_crops",
            "output_dim",
            "colour",
            "student_temperature",
            "teacher_temperature",
            "centre_momentum",
        ),
        lambda options: options["objective"] == "dino",
        "it is for --objective dino",
    ),
    Rule(("local_size",), lambda options: options["local_crops"] > 0, "there are no local crops"),
    Rule(
        ("pretrained",),
        _timm_name,
        "it is for a model of timm by its name; the embedded learner and directories bring their "
        "weights",
    ),
    Rule(
        (
            "meta_batch_size",
            "augmentor",
            "keep",
            "sparsity_penalty",
            "tv_penalty",
            "strength_penalty",
            "head_size",
            "heads_size",
        ),
        any_arm(DESIGNED_ARMS),
        NEEDS_DESIGNER,
    ),
    Rule(
        ("blur",),
        any_arm((*DESIGNED_ARMS, "uniform_smoothing")),
        "nothing is blurred; it needs an arm with a designer, or uniform_smoothing",
    ),
    Rule(("fixed_alpha",), any_arm(("uniform_smoothing",)), "it is for the arm uniform_smoothing"),
    Rule(
        ("augmentor", "keep", "blur"),
        lambda options: options["designer"] is None,
        "it is saved with the designer that --designer names",
    ),
    Rule(
        ("sparsity_penalty", "tv_penalty", "strength_penalty"),
        lambda options: not options["freeze_designer"],
        "--freeze-designer trains no designer",
    ),
    Rule(
        ("keep", "sparsity_penalty", "tv_penalty"),
        lambda options: _makes(options, *MASKS),
        "it is for masks, and --augmentor photometric makes none",
    ),
    Rule(
        ("keep",),
        lambda options: options["sparsity_penalty"] > 0,
        "nothing pulls masks to it; give --sparsity-penalty above 0",
    ),
    Rule(
        ("strength_penalty",),
        lambda options: _makes(options, "photometric"),
        "it is for --augmentor photometric",
    ),
    Rule(
        ("designer_heads",),
        lambda options: options["augmentor"] == "dit",
        "it is for --augmentor dit",
    ),
    Rule(("segmentation_weight",), lambda options: _asked(options, "segmentation"), _NOT_ASKED),
    Rule(("depth_weight",), lambda options: _asked(options, "depth"), _NOT_ASKED),
    Rule(("classification_weight",), lambda options: _asked(options, "classification"), _NOT_ASKED),
    Rule(("void_label", "depth_scale"), _from_folder, _FOLDERS),
    Rule(("label_size",), lambda options: options["feedback"] is not None, _FOLDERS),
    Rule(("void_label",), lambda options: _asked(options, "segmentation"), _NOT_ASKED),
    Rule(("depth_scale",), lambda options: _asked(options, "depth"), _NOT_ASKED),
    Rule(
        ("probe_steps",),
        lambda options: _asked(options, "segmentation", "depth"),
        "classification alone trains no probe of that kind",
    ),
    Rule(
        ("normalise_feedback",),
        lambda options: options["labels"] is None or len(options["labels"]) > 1,
        "there is one feedback task; give several --labels",
    ),
)


def check_vision(options: Mapping[str, Any]) -> None:
    """Refuse options that contradict each other or need one that is missing.

    Args:
        options: all of them, of a run on pictures.

    Raises:
        UserError: the first contradiction, and how to resolve it.
    """
    for arm in options["arms"]:
        if arm not in VISION_ARMS:
            raise UserError(
                f"--arms: {arm} works on tokens; with --modality vision there are "
                f"{', '.join(VISION_ARMS)}"
            )
    _check_sources(options)
    _check_weights(options)
    if options["engine"] == "linear":
        raise UserError(
            "--engine linear does not apply to --modality vision: the objective is not linear in a "
            "view; give auto, forward, reverse or finite_difference"
        )
    if options["meta_batch_size"] > options["batch_size"]:
        raise UserError(
            f"--meta-batch-size {options['meta_batch_size']} is above the --batch-size "
            f"{options['batch_size']} that it is taken from"
        )
    if options["align"].startswith("lora"):
        raise UserError(
            f"--align {options['align']} needs adapters, which --modality vision has not; give "
            "all, last:N or re:PATTERN"
        )
    if options["designer"] is None:
        _check_designer(options)


def check_labels(labels: tuple[str, ...], where: str) -> None:
    """Refuse labels that there are not, and repeated ones.

    Raises:
        UserError: the message says which there are.
    """
    for label in labels:
        if label not in LABELS:
            raise UserError(f"{where}: unknown label {label!r}; known: {', '.join(LABELS)}")
        if labels.count(label) > 1:
            raise UserError(f"{where} names {label} twice")


def _check_designer(options: Mapping[str, Any]) -> None:
    width, heads = options["designer_width"], options["designer_heads"]
    if width % 4:
        raise UserError(f"--designer-width {width} must be a multiple of 4")
    if options["augmentor"] == "dit" and width % heads:
        raise UserError(f"--designer-width {width} must be divisible by --designer-heads {heads}")
    cell = 2 ** options["designer_layers"]
    if options["augmentor"] == "unet" and options["image_size"] % cell:
        raise UserError(
            f"--image-size {options['image_size']} must be a multiple of {cell}, which "
            f"--designer-layers {options['designer_layers']} of a U-Net halve to 1"
        )


def _check_sources(options: Mapping[str, Any]) -> None:
    if len(options["stream"] or ()) > 1:
        raise UserError(
            f"--stream {' '.join(options['stream'])}: --modality vision reads one folder; give one"
        )
    if len(options["feedback"] or ()) > 1 and options["eval"] is not None:
        raise UserError(
            "--eval is for one --feedback: several are measured on their own test parts"
        )
    given = [f"--{name}" for name in ("stream", "eval") if options[name] is not None]
    if given and options["feedback"] is None:
        raise UserError(
            f"{' and '.join(given)} needs labelled pictures beside it; give --feedback DIR"
        )


def _check_weights(options: Mapping[str, Any]) -> None:
    labels = options["labels"] or LABELS
    if not any(options[f"{label}_weight"] for label in labels):
        flags = ", ".join(f"--{label}-weight" for label in labels)
        raise UserError(f"{flags}: all are 0, and nothing is left to learn from; give one above 0")
