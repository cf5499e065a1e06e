"""Contradictions between the options of a vision run, refused in a line each."""

from __future__ import annotations

from vfunc.arms import ARMS
from vfunc.config.declared import Options
from vfunc.errors import UserError
from vfunc.vision.conditions import EMBEDDED_SCENES, MASKS, VISION_ARMS
from vfunc.vision.options import LABELS


def check_vision(options: Options) -> None:
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
    _check_told(options)
    low, high = options["signature_period"]
    if low > high:
        raise UserError(f"--signature-period {low:g} {high:g}: the first is the smaller one")
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


def _check_told(options: Options) -> None:
    """Arms that are told masks need someone who knows them."""
    arms = options["arms"]
    if "known_objects" in arms and not EMBEDDED_SCENES.holds(options):
        raise UserError(
            "the arm known_objects has to be told where the objects are, which only the embedded "
            "scenes can; take it out of --arms, or drop --feedback"
        )
    for at, arm in enumerate(arms):
        other = ARMS[arm].follows
        if other and other not in arms[:at]:
            raise UserError(
                f"the arm {arm} takes the mean of the masks of {other} in the same run: name "
                f"{other} before it in --arms"
            )
        # what a saved designer makes is told where it is loaded, with its name
        if other and options["designer"] is None and not MASKS.holds(options):
            raise UserError(
                f"the arm {arm} takes the mean of masks, and --augmentor photometric makes none; "
                "take it out of --arms, or give --augmentor unet or dit"
            )


def _check_designer(options: Options) -> None:
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


def _check_sources(options: Options) -> None:
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


def _check_weights(options: Options) -> None:
    labels = options["labels"] or LABELS
    if not any(options[f"{label}_weight"] for label in labels):
        flags = ", ".join(f"--{label}-weight" for label in labels)
        raise UserError(f"{flags}: all are 0, and nothing is left to learn from; give one above 0")
