"""Reads a public data set (ADE20K, NYUv2, ImageNet) from a local copy, or from the Hub."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.duplicates import without_duplicates
from vfunc.vision.data.file_sources import CACHE_BYTES, Cache, LabelledFiles, PictureFiles
from vfunc.vision.data.folder_layouts import Entry
from vfunc.vision.data.folder_stream import map_files, measured_files, unlabeled_pictures
from vfunc.vision.data.folders import FIELDS, Split
from vfunc.vision.data.hub_pictures import hub_entries
from vfunc.vision.data.orientation import with_turns
from vfunc.vision.data.public_sets import (
    HUB_CATEGORIES,
    SETS,
    Name,
    Published,
    imagenet_categories,
)
from vfunc.vision.data.soundness import BadFiles, sound_entries
from vfunc.vision.data.splits import (
    TRAINING,
    labelled_sources,
    split_contiguous,
    split_shuffled,
    thinned,
)
from vfunc.vision.data.vision_data import Pictures, VisionData

OTHERS = {"held_out": 128, "fit": 2000, "validation": 512}
"""Pictures of the splits that the paper gives no number of."""
GAP = 5
"""Frames of a video that are left out between two splits."""


@typed
def parse_public(text: str) -> tuple[Name, Path | None] | None:
    """Read `ade20k`, `nyuv2` or `imagenet`, with `:ROOT` for a local copy; None for other text."""
    name, colon, root = text.partition(":")
    if name not in SETS:
        return None
    if colon and not root:
        raise UserError(f"{text}: names no folder; say {name}:DIR, or {name} to stream it")
    # it is one of them; a check of membership does not tell the type so
    return cast("Name", name), Path(root).expanduser() if colon else None


@typed
def open_public(
    name: Name,
    root: Path | None,
    split: Published,
    *,
    limit: int | None = None,
) -> LabelledFiles:
    """The labelled pictures of one split of a public data set, as it publishes them.

    The test split is the one with published labels: ADE20K's and ImageNet's validation, NYUv2's
    654 test frames.

    Args:
        name: the data set.
        root: of a local copy; None streams it from the Hub.
        split: train or test.
        limit: at most so many; needed with the Hub, where they are kept in memory. Of a local
            copy they are evenly spaced, of the Hub's the first.

    Raises:
        UserError: no such copy, no network, or no limit with the Hub.
    """
    spec = SETS[name]
    if root is not None:
        entries = spec.copy(root, split)
        entries = thinned(entries, limit)
    elif limit is None:
        raise UserError(f"{name}: say how many pictures to stream from the Hub")
    else:
        entries = hub_entries(name, spec.hub, split, limit, spec.instead)
    names: Sequence[str] = ()
    if spec.task == "classification":
        names = HUB_CATEGORIES if root is None else imagenet_categories(root)
    return LabelledFiles(entries, names, **spec.reading)


@typed
def public_pictures(
    name: Name, root: Path | None, *, limit: int | None = None, cache_bytes: int = CACHE_BYTES
) -> PictureFiles:
    """The training pictures without their labels; see `open_public`."""
    entries = open_public(name, root, "train", limit=limit).entries
    return PictureFiles([entry.image for entry in entries], Cache(cache_bytes))


@typed
def public_data(
    name: Name,
    root: Path | None,
    *,
    image_size: int | tuple[int, int],
    stream: Path | Pictures | None = None,
    split: Split = "validation",
    seed: int = 0,
    counts: Mapping[str, int] | None = None,
    cache_bytes: int = CACHE_BYTES,
    bad_files: BadFiles = "refuse",
) -> VisionData:
    """Labelled pictures of ADE20K, NYUv2 or ImageNet, split by use, and a stream.

    Heads and feedback get the paper's numbers of training pictures, 2000 + 512 of ADE20K and
    512 + 128 of NYUv2; fit, held_out and validation are other training pictures; test pictures
    are those of the published split. NYUv2's frames are split in contiguous blocks, the pictures of
    the others at random, the same for all seeds. Where there is less than is wanted,
    heads and feedback come first.

    Args:
        name: the data set.
        root: of a local copy; None streams it from the Hub.
        image_size: height and width of a labelled batch; one number for a square.
        stream: unlabeled pictures; None takes the training pictures of heads, feedback and fit.
        split: whether to measure on validation or test pictures.
        seed: of the order in which heads, feedback and held-out pictures are read.
        counts: pictures of a split, in place of these; "test" is what is measured on.
        cache_bytes: decoded pictures of the stream that are kept in memory.
        bad_files: whether files that cannot be read are refused, or left out and counted.

    Raises:
        UserError: no copy, no network, too few pictures, or files that cannot be read.
    """
    spec = SETS[name]
    wanted = {"heads": spec.heads, "feedback": spec.feedback} | OTHERS | dict(counts or {})
    measured = wanted.pop("test", None)
    if split == "validation" and measured is not None:
        wanted["validation"] = measured
    strange = set(wanted) - {*TRAINING, "validation"}
    if strange:
        raise UserError(f"{', '.join(sorted(strange))}: no split; there are {', '.join(TRAINING)}")
    most = sum(wanted.values()) + GAP * len(wanted) if root is None else None
    train = open_public(name, root, "train", limit=most)
    blocks = _blocks(name, train.entries, wanted, spec.video)
    splits = {key: thinned(entries, wanted[key]) for key, entries in blocks.items()}
    if root is not None or split == "test":
        test = open_public(name, root, "test", limit=measured or (2000 if root is None else None))
        splits["test"] = list(test.entries)
    splits, twice = without_duplicates(splits)
    fields = [FIELDS[spec.task]]
    everything = [entry for entries in splits.values() for entry in entries]
    sound, left_out = sound_entries(everything, fields, bad_files)
    made, turns = with_turns(sound, fields)
    turned = dict(zip(sound, made, strict=True))
    splits = {key: [turned[e] for e in some if e in turned] for key, some in splits.items()}

    cache = Cache(cache_bytes)
    sources = labelled_sources(
        {key: splits[key] for key in TRAINING} | {"test": splits[split]},
        lambda entries: LabelledFiles(entries, train.categories, **spec.reading),
        {},
        seed,
    )
    streamed = blocks | {key: splits[key] for key in ("validation", "test") if key in splits}
    unlabeled, about = unlabeled_pictures(stream, [], streamed, cache, bad_files)
    summary: dict[str, Any] = {
        "source": name if root is None else f"{name}:{root}",
        "split": split,
        "pictures": {"stream": len(unlabeled)} | {r: len(s) for r, s in sources.items()},
        "stream": about,
        "left out": {f"{key}, in another role too": {"count": n} for key, n in twice.items()}
        | left_out,
    } | ({"orientation": turns} if turns else {})
    return VisionData(
        unlabeled,
        **sources,
        tasks=(spec.task,),
        classes={} if spec.classes is None else {spec.task: len(train.categories) or spec.classes},
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        summary=summary,
        names={spec.task: tuple(train.categories)} if train.categories else {},
        measured=tuple(measured_files(splits)),
        maps=map_files([], streamed),
    )


def _blocks(
    name: str, pool: Sequence[Entry], wanted: Mapping[str, int], video: bool
) -> dict[str, list[Entry]]:
    """The pool, split; each split at least as large as wanted where there is enough."""
    usable = len(pool) - (GAP * (len(wanted) - 1) if video else 0)
    first = wanted["heads"] + wanted["feedback"]
    others = {key: count for key, count in wanted.items() if key not in ("heads", "feedback")}
    if usable < first + len(others):
        raise UserError(
            f"{name}: {len(pool)} training pictures are too few for {wanted['heads']} to fit heads "
            f"on, {wanted['feedback']} for feedback, and some to evaluate on; ask for fewer"
        )
    if usable < sum(wanted.values()):
        scale = (usable - first - len(others)) / sum(others.values())
        sizes = dict(wanted) | {key: 1 + int(scale * count) for key, count in others.items()}
    else:
        scale = usable / sum(wanted.values())
        sizes = {key: int(scale * count) for key, count in wanted.items()}
    blocks: Sequence[Sequence[int]] = (
        split_contiguous(len(pool), list(sizes.values()), gap=GAP)
        if video
        else split_shuffled(len(pool), list(sizes.values()), seed=0)
    )
    return {key: [pool[i] for i in block] for key, block in zip(sizes, blocks, strict=True)}
