"""Reads all data of a vision run from the user's folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.duplicates import without_duplicates
from vfunc.vision.data.file_sources import (
    CACHE_BYTES,
    Cache,
    LabelledFiles,
    require_size,
)
from vfunc.vision.data.folder_layouts import SPLIT_FOLDERS, VOC, VOC_VOID, Entry, Pairs, find_pairs
from vfunc.vision.data.folder_stream import map_files, measured_files, unlabeled_pictures
from vfunc.vision.data.label_values import segmentation_rule
from vfunc.vision.data.orientation import turned_size, with_turns
from vfunc.vision.data.pictures import picture_size, read_depth
from vfunc.vision.data.soundness import BadFiles, sound_entries
from vfunc.vision.data.splits import (
    TRAINING,
    categories,
    labelled_sources,
    split_pool,
)
from vfunc.vision.data.vision_data import Pictures, VisionData

Split = Literal["validation", "test"]
FIELDS = {"segmentation": "segmentation", "depth": "depth", "classification": "category"}
"""The field that an entry needs for each task."""
BySplit = Mapping[str, Sequence[Entry]]


@typed
def folder_data(
    feedback: Path,
    *,
    image_size: int | tuple[int, int],
    stream: Path | Pictures | None = None,
    eval_dir: Path | None = None,
    split: Split = "validation",
    tasks: tuple[str, ...] | None = None,
    void: int | None = None,
    depth_scale: float = 0.001,
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    shuffle: bool = False,
    cache_bytes: int = CACHE_BYTES,
    bad_files: BadFiles = "refuse",
) -> VisionData:
    """Labelled pictures of a folder, split by use, and a stream.

    Parts that the folder names train, val and test keep their meaning; what is missing of val and
    test is a block of the rest (see `vfunc.vision.data.splits.split_pool`). No picture, byte for
    byte, is in two splits, and none that is measured on is in the stream.

    Label maps of the values 0 and 255 alone, all of them taken together, are classes 0 and 1. There
    are as many classes as the largest index in any label map, plus one. A class that no training
    picture has counts too: an error that no head can avoid, and the summary names it.

    Args:
        feedback: the folder, of a layout that `find_pairs` recognises.
        image_size: height and width of a labelled batch; one number for a square.
        stream: unlabeled pictures; label files and pictures that are measured on are left out.
            None takes the pictures of heads, feedback and fit.
        eval_dir: a folder to measure on in place of the folder's own splits: its split that is
            named as `split`, or all of it where it names none.
        split: whether to measure on validation or test pictures.
        tasks: of segmentation, depth and classification; None takes all that the folder has.
            A picture without one of them is left out, and counted.
        void: value in the label maps of pixels that say nothing; None is 255 of
            Pascal VOC's layout.
        depth_scale: metres a unit of whole-number depth maps.
        seed: of the order in which heads, feedback and held-out pictures are read, and of the
            split if it is shuffled.
        counts: at most so many pictures of a split, evenly spaced; "test" is what is measured on.
        shuffle: split at random: only for pictures that are no video.
        cache_bytes: decoded pictures of the stream that are kept in memory.
        bad_files: whether files that cannot be read are refused, all of which are opened here, or
            left out and counted.

    Raises:
        UserError: what a folder holds is not as above, or a file cannot be read.
    """
    found_pairs = find_pairs(feedback)
    wanted = _tasks(feedback, found_pairs, tasks)
    if void is None and "segmentation" in wanted and all(VOC in p.layout for p in found_pairs):
        void = VOC_VOID
    pool = _complete([p for p in found_pairs if p.split == "train"], wanted)
    if not pool:
        raise UserError(f"{feedback}: no picture for training has {' and '.join(wanted)}")
    measured: list[Pairs] = []
    given: dict[str, Sequence[Entry] | None] = {}
    if eval_dir is not None:
        measured = _measured(eval_dir, split)
        _tasks(eval_dir, measured, wanted)
        given = {"test": _complete(measured, wanted), "validation": None}
    else:
        for pairs in found_pairs:
            if pairs.split != "train":
                given[pairs.split] = [*(given.get(pairs.split) or ()), *_complete([pairs], wanted)]
    parts = {"train": pool, **{name: list(e) for name, e in given.items() if e is not None}}
    parts, left_out, turns = _sound(parts, wanted, bad_files)
    pool = parts["train"]
    if not pool:
        raise UserError(f"{feedback}: no picture for training can be read")
    given = {name: parts.get(name) for name in given}
    splits, twice = without_duplicates(split_pool(pool, given, shuffle=shuffle, seed=seed))

    cache = Cache(cache_bytes)
    rules, classes, found = _rules(splits, wanted, void, depth_scale)
    chosen = {name: _only(splits[name], wanted) for name in TRAINING}
    chosen["test"] = _only(splits["test" if eval_dir else split], wanted)
    sources = labelled_sources(
        chosen,
        lambda entries: LabelledFiles(entries, **rules),
        counts or {},
        seed,
    )
    everything = [*found_pairs, *measured]
    unlabeled, about = unlabeled_pictures(stream, everything, splits, cache, bad_files)
    names = {"classification": tuple(rules["categories"])} if "categories" in rules else {}
    summary = {
        "source": str(feedback),
        "layout": sorted({pairs.layout for pairs in everything}),
        "split": split,
        "pictures": {"stream": len(unlabeled)} | {r: len(s) for r, s in sources.items()},
        "stream": about,
        "left out": _left_out(everything, wanted)
        | left_out
        | _unused(feedback, found_pairs)
        | {f"{name}, in another role too": {"count": n} for name, n in twice.items()},
        **found,
    } | ({"orientation": turns} if turns else {})
    size = (image_size, image_size) if isinstance(image_size, int) else image_size
    return VisionData(
        unlabeled,
        **sources,
        tasks=wanted,
        classes=classes,
        image_size=size,
        summary=summary,
        names=names,
        measured=tuple(measured_files(splits)),
        maps=map_files(everything, splits),
    )


def _tasks(
    folder: Path, found_pairs: Sequence[Pairs], tasks: tuple[str, ...] | None
) -> tuple[str, ...]:
    entries = [entry for pairs in found_pairs for entry in pairs.entries]
    has = tuple(t for t, f in FIELDS.items() if any(getattr(e, f) is not None for e in entries))
    missing = [task for task in tasks or () if task not in has]
    if missing:
        raise UserError(
            f"{folder}: has no labels for {', '.join(missing)}, but for {', '.join(has)}"
        )
    return tasks or has


def _has(entry: Entry, tasks: Sequence[str]) -> bool:
    return all(getattr(entry, FIELDS[task]) is not None for task in tasks)


def _complete(found_pairs: Sequence[Pairs], tasks: Sequence[str]) -> list[Entry]:
    return [entry for pairs in found_pairs for entry in pairs.entries if _has(entry, tasks)]


def _only(entries: Sequence[Entry], tasks: Sequence[str]) -> list[Entry]:
    """Entries without unused labels, which need not even be readable."""
    fields = [FIELDS[task] for task in tasks]
    unused = {field: None for field in FIELDS.values() if field not in fields}
    return [replace(entry, **unused) for entry in entries]


def _sound(
    parts: Mapping[str, Sequence[Entry]], tasks: Sequence[str], bad_files: BadFiles
) -> tuple[dict[str, list[Entry]], dict[str, Any], dict[str, Any]]:
    """The entries that can be read, with how they are turned; what was left out; what was turned.

    All at once: one error lists the bad files of every part.
    """
    fields = [FIELDS[task] for task in tasks]
    everything = [entry for entries in parts.values() for entry in entries]
    kept, left_out = sound_entries(everything, fields, bad_files)
    made, turns = with_turns(kept, fields)
    turned = dict(zip(kept, made, strict=True))
    sound = {name: [turned[e] for e in some if e in turned] for name, some in parts.items()}
    return sound, left_out, turns


def _measured(folder: Path, split: Split) -> list[Pairs]:
    found_pairs = find_pairs(folder)
    named = [pairs for pairs in found_pairs if pairs.split == split]
    if not named and any(pairs.split != "train" or pairs.name for pairs in found_pairs):
        there = ", ".join(pairs.name for pairs in found_pairs)
        raise UserError(f"{folder}: has no part for {split}, but {there}; name one, or give one")
    return named or found_pairs


def _rules(
    splits: BySplit, tasks: Sequence[str], void: int | None, depth_scale: float
) -> tuple[dict[str, Any], dict[str, int], dict[str, Any]]:
    """Readers of the labels, numbers of classes, and a summary."""
    everything = [entry for entries in splits.values() for entry in entries]
    training = [entry for name in ("heads", "feedback", "fit") for entry in splits[name]]
    rules: dict[str, Any] = {}
    classes: dict[str, int] = {}
    found: dict[str, Any] = {}
    if "segmentation" in tasks:
        maps = {entry.segmentation for entry in training if entry.segmentation is not None}
        rule = segmentation_rule(everything, maps, void)
        rules["labels"], classes["segmentation"] = rule.read, rule.classes
        found["segmentation"] = rule.summary
    elif void is not None:
        raise UserError(f"--void-label {void}: there are no label maps of classes to read")
    if "depth" in tasks:
        rules["depth"] = partial(read_depth, scale=depth_scale)
        found["depth"] = {"metres a unit": depth_scale}
        for entry in everything:
            assert entry.depth is not None
            size = turned_size(picture_size(entry.depth), entry.depth_turn)
            require_size(entry.image, picture_size(entry.image), entry.depth, size)
    if "classification" in tasks:
        names = rules["categories"] = categories(training)
        if len(names) < 2:
            raise UserError(
                f"{everything[0].image}: class {names[0]} alone; classification needs two classes"
            )
        classes["classification"] = len(names)
        strange = [entry for entry in everything if entry.category not in names]
        if strange:
            raise UserError(
                f"{strange[0].image}: class {strange[0].category} is none of the training "
                f"pictures', {', '.join(names)}"
            )
    return rules, classes, found


def _unused(folder: Path, found_pairs: Sequence[Pairs]) -> dict[str, Any]:
    used = {pairs.name for pairs in found_pairs}
    names = sorted(
        f.name for f in folder.iterdir() if f.is_dir() and f.name.lower() in SPLIT_FOLDERS
    )
    names = [name for name in names if name not in used]
    return {"folders without labels": {"count": len(names), "first": names}} if names else {}


def _left_out(found_pairs: Sequence[Pairs], tasks: Sequence[str]) -> dict[str, Any]:
    """Counts of what was left out by reason, the first three by name."""
    lacking = [str(e.image) for p in found_pairs for e in p.entries if not _has(e, tasks)]
    spare = [str(path) for pairs in found_pairs for path in pairs.unmatched]
    reasons = {"pictures without a label": lacking, "labels without a picture": spare}
    reasons |= {why: list(names) for pairs in found_pairs for why, names in pairs.notes.items()}
    said: dict[str, Any] = {
        reason: {"count": len(names), "first": names[:3]}
        for reason, names in reasons.items()
        if names
    }
    ignored = sum(pairs.ignored for pairs in found_pairs)
    return said | ({"files of other kinds": {"count": ignored}} if ignored else {})
