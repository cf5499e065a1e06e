"""Turns labels as their pictures are turned, where they lie as the camera stored the picture.

A camera stores what its sensor saw, and how to turn it (EXIF orientation, tag 0x0112). Pictures are
read turned. A label map made by a tool that turns pictures too lies as they are shown; one made
from the bare pixels lies as they are stored. Its size tells which wherever turning swaps the sides
of a picture that is no square. The pairs that tell decide for the others of a set, those turned by
half a circle, mirrored or square, if they agree; where none tells, a map lies as the picture is
shown, and the summary says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vfunc.vision.data.decoding import File, decode, is_array
from vfunc.vision.data.folder_layouts import Entry
from vfunc.vision.data.pictures import ORIENTATION, picture_size

_KINDS = ("segmentation", "depth")


def with_turns(
    entries: Sequence[Entry], fields: Sequence[str]
) -> tuple[list[Entry], dict[str, Any]]:
    """Entries that say how their maps are to be turned, and a summary of it.

    Args:
        entries: labelled pictures, all readable.
        fields: which of their maps are used.

    Returns:
        The entries, and for a run's summary how many pictures and maps are turned, and how many
        maps lie as shown because nothing tells; empty where no picture is turned.
    """
    kinds = [kind for kind in _KINDS if kind in fields]
    if not kinds:
        return list(entries), {}
    turned: dict[int, tuple[int, tuple[int, int]]] = {}
    for number, entry in enumerate(entries):
        how = stored_orientation(entry.image)
        if how != 1:
            turned[number] = how, picture_size(entry.image)
    if not turned:
        return list(entries), {}
    made = list(entries)
    counts: Counter[str] = Counter({"pictures turned as their EXIF says": len(turned)})
    for kind in kinds:
        frames = {
            n: _frame(file, how, shown)
            for n, (how, shown) in turned.items()
            if (file := getattr(entries[n], kind)) is not None
        }
        told = {frame for frame in frames.values() if frame is not None}
        rest = "stored" if told == {"stored"} else "shown"
        for n, frame in frames.items():
            if (frame or rest) == "stored":
                made[n] = replace(made[n], **{f"{kind}_turn": turned[n][0]})
                counts[f"{kind} maps turned with them"] += 1
            elif frame is None and len(told) != 1:
                counts[f"{kind} maps taken to lie as shown: their size does not tell"] += 1
            else:
                counts[f"{kind} maps that lie as shown"] += 1
    return made, {reason: {"count": count} for reason, count in counts.items()}


def stored_orientation(file: File) -> int:
    """How a picture is to be turned, 1 (not at all) to 8, by its head alone."""
    return 1 if is_array(file) else decode(file, _orientation)


def turned(map_: Tensor, orientation: int) -> Tensor:
    """A map (h, w) turned as `ImageOps.exif_transpose` turns a picture."""
    if orientation in (5, 6, 7, 8):
        map_ = map_.T
    # after the transposition: 6 turns clockwise, 8 back, 7 is the other diagonal
    flips = {2: [1], 3: [0, 1], 4: [0], 6: [1], 7: [0, 1], 8: [0]}.get(orientation, [])
    return torch.flip(map_, flips).contiguous() if flips else map_.contiguous()


def turned_size(size: Sequence[int], orientation: int) -> tuple[int, int]:
    """Height and width of a map once it is turned."""
    height, width = size
    return (width, height) if orientation >= 5 else (height, width)


def _frame(file: File, how: int, shown: tuple[int, int]) -> str | None:
    """Whether a map lies as shown or as stored; None where its size is that of both, or neither."""
    stored = turned_size(shown, how)
    size = picture_size(file)
    if stored == shown or size not in (stored, shown) or stored_orientation(file) != 1:
        return "shown" if stored_orientation(file) != 1 else None
    return "stored" if size == stored else "shown"


def _orientation(picture: Image.Image) -> int:
    # looking for EXIF, Pillow decodes the whole of a PNG that has none
    if picture.format == "PNG" and "exif" not in picture.info:
        return 1
    found = picture.getexif().get(ORIENTATION, 1)
    return found if found in range(2, 9) else 1
