"""Collects the unlabeled pictures of a run on files, without label maps and test pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.decoding import File
from vfunc.vision.data.duplicates import content_keys
from vfunc.vision.data.file_sources import Cache, PictureFiles, image_folder
from vfunc.vision.data.folder_layouts import Entry, Pairs, find_pairs
from vfunc.vision.data.soundness import UNREADABLE, BadFiles, sound_pictures
from vfunc.vision.data.vision_data import Pictures


@typed
def unlabeled_pictures(
    stream: Path | Pictures | None,
    found: Sequence[Pairs],
    splits: Mapping[str, Sequence[Entry]],
    cache: Cache,
    bad_files: BadFiles = "refuse",
) -> tuple[Pictures, dict[str, Any]]:
    """The stream, and its summary.

    Args:
        stream: a folder; pictures as they are; or None for those of heads, feedback and fit.
        found: pairs of the labelled folders, whose label files are no pictures.
        splits: the labelled pictures; none of validation or test is in a folder's stream.
        cache: cache of decoded pictures.
        bad_files: whether pictures that cannot be read are refused, or left out and counted.

    Raises:
        UserError: nothing is left of the folder, or pictures cannot be read.
    """
    if stream is None:
        images = [entry.image for split in ("heads", "feedback", "fit") for entry in splits[split]]
        return PictureFiles(images, cache), {"source": "pictures of heads, feedback and fit"}
    if not isinstance(stream, Path):
        if not isinstance(stream, PictureFiles):
            return stream, {"source": "given"}
        sound, left_out = sound_pictures(stream.files, bad_files)
        given = {"source": "given"} | (
            {"left out": {UNREADABLE: left_out[UNREADABLE]["count"]}} if left_out else {}
        )
        return (replace(stream, files=sound) if left_out else stream), given
    folder = image_folder(stream)
    with suppress(UserError):  # of no layout: a plain folder of pictures
        found = [*found, *find_pairs(stream)]
    labels = map_files(found, splits)
    files = [
        file for file in folder.files if not (isinstance(file, Path) and file.resolve() in labels)
    ]
    measured = measured_files(splits)
    keys = content_keys([*files, *measured])
    seen = {keys[file] for file in measured}
    kept = [file for file in files if keys[file] not in seen]
    if not kept:
        raise UserError(f"{stream}: holds label maps and pictures that are measured on, no others")
    kept, left_out = sound_pictures(kept, bad_files)
    if not kept:
        raise UserError(f"{stream}: none of its pictures can be read")
    about = {
        "source": str(stream),
        "left out": {
            "label maps": len(folder.files) - len(files),
            "pictures that are measured on": len(files) - len(kept),
            "files of other kinds": folder.ignored,
            **{reason: found["count"] for reason, found in left_out.items()},
        },
    }
    return PictureFiles(kept, cache), about


@typed
def measured_files(splits: Mapping[str, Sequence[Entry]]) -> list[File]:
    """The pictures that are measured on, or would be on the other split."""
    return [entry.image for split in ("validation", "test") for entry in splits.get(split, ())]


@typed
def map_files(found: Sequence[Pairs], splits: Mapping[str, Sequence[Entry]]) -> frozenset[Path]:
    """The files of label and depth maps, used or not, as they are resolved."""
    entries = [
        *(entry for pairs in found for entry in pairs.entries),
        *(entry for chosen in splits.values() for entry in chosen),
    ]
    maps = [file for entry in entries for file in (entry.segmentation, entry.depth)]
    maps += [file for pairs in found for file in (*pairs.unmatched, *pairs.aside)]
    return frozenset(file.resolve() for file in maps if isinstance(file, Path))
