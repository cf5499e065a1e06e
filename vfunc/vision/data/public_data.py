"""Everything that a vision run reads, from a public data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.examples import Pictures, VisionData
from vfunc.vision.data.file_sources import CACHE_BYTES, Cache, LabelledFiles
from vfunc.vision.data.folder_stream import unlabeled_pictures
from vfunc.vision.data.folders import Split
from vfunc.vision.data.layouts import Entry
from vfunc.vision.data.parts import split_contiguous, split_shuffled
from vfunc.vision.data.public import SETS, Name, open_public
from vfunc.vision.data.splits import TRAINING, distinct, labelled_sources, thinned

OTHERS = {"held_out": 128, "fit": 2000, "validation": 512}
"""Pictures of the roles that the paper gives no number of."""
GAP = 5
"""Frames of a video that are left out between two roles."""


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
) -> VisionData:
    """Labelled pictures of ADE20K, NYUv2 or ImageNet, split by role, and a stream.

    Heads and feedback get the paper's numbers of training pictures, 2000 + 512 of ADE20K and
    512 + 128 of NYUv2; fit, held_out and validation are other training pictures; test pictures
    are those of the published part. NYUv2's frames are split in contiguous blocks, the pictures of
    the others at random, the same for all seeds. A part smaller than what is wanted of it gives
    what it has, heads and feedback first.

    Args:
        name: the data set.
        root: of a local copy; None streams it from the Hub.
        image_size: height and width of a labelled batch; one number for a square.
        stream: unlabeled pictures; None takes the training pictures of heads, feedback and fit.
        split: whether to measure on validation or test pictures.
        seed: of the order in which heads, feedback and held-out pictures are read.
        counts: pictures of a role, in place of these; "test" is what is measured on.
        cache_bytes: decoded pictures that are kept in memory.

    Raises:
        UserError: no copy, no network, or too few pictures.
    """
    spec = SETS[name]
    wanted = {"heads": spec.heads, "feedback": spec.feedback} | OTHERS | dict(counts or {})
    measured = wanted.pop("test", None)
    if split == "validation" and measured is not None:
        wanted["validation"] = measured
    strange = set(wanted) - {*TRAINING, "validation"}
    if strange:
        raise UserError(f"{', '.join(sorted(strange))}: no role; there are {', '.join(TRAINING)}")
    most = sum(wanted.values()) + GAP * len(wanted) if root is None else None
    train = open_public(name, root, "train", limit=most)
    blocks = _blocks(name, train.entries, wanted, spec.video)
    roles = {role: thinned(entries, wanted[role]) for role, entries in blocks.items()}
    if root is not None or split == "test":
        test = open_public(name, root, "test", limit=measured or (2000 if root is None else None))
        roles["test"] = list(test.entries)
    roles, twice = distinct(roles)

    cache = Cache(cache_bytes)
    sources = labelled_sources(
        {role: roles[role] for role in TRAINING} | {"test": roles[split]},
        lambda entries: LabelledFiles(entries, train.categories, cache=cache, **spec.reading),
        {},
        seed,
    )
    streamed = blocks | {role: roles[role] for role in ("validation", "test") if role in roles}
    unlabeled, about = unlabeled_pictures(stream, [], streamed, cache)
    summary: dict[str, Any] = {
        "source": name if root is None else f"{name}:{root}",
        "split": split,
        "pictures": {"stream": len(unlabeled)} | {r: len(s) for r, s in sources.items()},
        "stream": about,
        "left out": {f"{role}, in another role too": {"count": n} for role, n in twice.items()},
    }
    return VisionData(
        unlabeled,
        **sources,
        tasks=(spec.task,),
        classes={} if spec.classes is None else {spec.task: len(train.categories) or spec.classes},
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        summary=summary,
        names={spec.task: tuple(train.categories)} if train.categories else {},
    )


def _blocks(
    name: str, pool: Sequence[Entry], wanted: Mapping[str, int], video: bool
) -> dict[str, list[Entry]]:
    """The pool in one part a role, each at least as large as wanted where there is enough."""
    usable = len(pool) - (GAP * (len(wanted) - 1) if video else 0)
    first = wanted["heads"] + wanted["feedback"]
    others = {role: count for role, count in wanted.items() if role not in ("heads", "feedback")}
    if usable < first + len(others):
        raise UserError(
            f"{name}: {len(pool)} training pictures are too few for {wanted['heads']} to fit heads "
            f"on, {wanted['feedback']} for feedback, and some to evaluate on; ask for fewer"
        )
    if usable < sum(wanted.values()):
        scale = (usable - first - len(others)) / sum(others.values())
        sizes = dict(wanted) | {role: 1 + int(scale * count) for role, count in others.items()}
    else:
        scale = usable / sum(wanted.values())
        sizes = {role: int(scale * count) for role, count in wanted.items()}
    parts: Sequence[Sequence[int]] = (
        split_contiguous(len(pool), list(sizes.values()), gap=GAP)
        if video
        else split_shuffled(len(pool), list(sizes.values()), seed=0)
    )
    return {role: [pool[i] for i in part] for role, part in zip(sizes, parts, strict=True)}
