"""Conditions on the options of a vision run that several declarations share."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from vfunc.arms import ARMS
from vfunc.conditions import DESIGNED_ARMS, any_arm
from vfunc.config.declared import Condition, Need, Options
from vfunc.errors import UserError

EMBEDDED_SCENES = Condition("on the embedded scenes", lambda options: options["feedback"] is None)
PUBLIC = re.compile(r"(ade20k|nyuv2|imagenet)(:.*)?")
"""A public data set in `--stream`, `--feedback` or `--eval`, and the folder of a copy."""

OWN_PICTURES = Need(
    lambda options: options["feedback"] is not None, "it is for folders; give --feedback DIR"
)
MASKED_ARMS = ("uniform_smoothing", "known_objects", "matched_uniform", "oracle")
"""Arms without a designer whose views are made by a mask."""
BLURRED = Need(
    any_arm((*DESIGNED_ARMS, *MASKED_ARMS)),
    f"nothing is blurred; it needs an arm with a designer, or {', '.join(MASKED_ARMS)}",
)
MASKS = Need(
    lambda options: makes(options, "unet", "dit"),
    "it is for masks, and a designer that is photometric (--augmentor, --designer) makes none",
)
VISION_ARMS = tuple(name for name in ARMS if name in (*DESIGNED_ARMS, "baseline", *MASKED_ARMS))
_NOT_ASKED = "--labels leaves its task out"


def makes(options: Options, *augmentors: str) -> bool:
    """Whether the designer is of such a kind; that of a saved one is in its file.

    One that cannot be read may be of any: it is refused when it is loaded.
    """
    saved = options["designer"]
    if saved is None:
        return options["augmentor"] in augmentors
    try:
        state = Path(saved).stat()
        return _kind_of(str(saved), state.st_mtime_ns, state.st_size) in augmentors
    except (OSError, UserError):
        return True


@functools.lru_cache(maxsize=16)
def _kind_of(path: str, *_: int) -> str:
    """The kind of a saved designer; its file is read again where it has changed.

    Raises:
        UserError: it holds none.
    """
    # imported here: the designers' own options have these conditions
    from vfunc.vision.designers.view_designer import load_view_designer

    return load_view_designer(path).config.kind


def asked(*labels: str, reason: str = _NOT_ASKED) -> Need:
    """The need that feedback is about one of these labels, as far as the options tell."""

    def holds(options: Options) -> bool:
        return options["labels"] is None or any(label in options["labels"] for label in labels)

    return Need(holds, reason)
