"""Opens the pictures of a vision run, labelled and not, from --feedback and --stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vfunc.errors import UserError
from vfunc.storage.overflow import GIB
from vfunc.training.build.vision_config import VisionConfig
from vfunc.vision.data.duplicates import sources_apart
from vfunc.vision.data.file_sources import PictureFiles, image_folder
from vfunc.vision.data.folder_layouts import find_pairs
from vfunc.vision.data.folders import FIELDS, folder_data
from vfunc.vision.data.public import parse_public, public_data, public_pictures
from vfunc.vision.data.vision_data import Pictures, VisionData
from vfunc.vision.scenes.scene_look import Signature
from vfunc.vision.scenes.scenes import embedded_scenes, looks_of

PUBLISHED_SIZES = {"ade20k": (512, 512), "nyuv2": (480, 640), "imagenet": (224, 224)}
"""Height and width at which the paper evaluates."""


def read_data(config: VisionConfig, patch: int) -> list[VisionData]:
    """The data of each --feedback; the stream is the first one's.

    Args:
        config: resolved.
        patch: the encoder's, of which the sides of labelled pictures are multiples.

    Raises:
        UserError: something is missing or cannot be read.
    """
    data, dense = config.data, config.dense
    if data.feedback is None:
        assert data.stream_size is not None
        assert data.problem is not None
        looks = looks_of(
            data.problem,
            signature=Signature(data.signature_amplitude, data.signature_period),
            signed=data.signature_roles,
            texture=data.object_texture,
        )
        scenes = embedded_scenes(
            config.run.seed,
            stream=data.stream_size,
            heads=dense.heads_size,
            feedback=data.feedback_size,
            evaluation_fit=dense.fit_size,
            evaluation=data.eval_size,
            split=data.eval_split,
            looks=looks,
        )
        return [scenes]
    counts = {
        "heads": dense.heads_size,
        "feedback": data.feedback_size,
        "fit": dense.fit_size,
        "test": data.eval_size,
    }
    stream = _stream(data.stream, round(data.in_memory * GIB))
    asked = _asked_of_folders(config)
    sources = [_source(config, name, stream, counts, patch, asked) for name in data.feedback]
    return [_at_side(source, data.stream_side) for source in sources_apart(sources)]


def _at_side(source: VisionData, side: int | None) -> VisionData:
    """The same, the shorter side of the stream's pictures at most so many pixels."""
    if side is None or not isinstance(source.stream, PictureFiles):
        return source
    return replace(source, stream=replace(source.stream, side=side))


def _asked_of_folders(config: VisionConfig) -> dict[str, tuple[str, ...] | None]:
    """Of several folders, what each is asked: of what --labels names, what it holds.

    Raises:
        UserError: a folder is nothing of the kind, or --void-label is for none of them.
    """
    names, dense = config.data.feedback or (), config.dense
    if len(names) == 1:  # reading it says more of what is wrong
        return {names[0]: dense.labels}
    folders = [name for name in names if parse_public(name) is None]
    held = {name: _held_labels(Path(name)) for name in folders}
    asked = {
        name: labels if dense.labels is None else tuple(t for t in labels if t in dense.labels)
        for name, labels in held.items()
    }
    if dense.void_label is not None and not any("segmentation" in a for a in asked.values()):
        raise UserError(
            f"--void-label {dense.void_label}: there are no label maps of classes to read"
        )
    return dict(asked)


def _held_labels(folder: Path) -> tuple[str, ...]:
    entries = [entry for pairs in find_pairs(folder) for entry in pairs.entries]
    return tuple(t for t, f in FIELDS.items() if any(getattr(e, f) is not None for e in entries))


def _stream(names: tuple[str, ...] | None, cache_bytes: int) -> Path | Pictures | None:
    if names is None:
        return None
    (name,) = names
    public = parse_public(name)
    if public is not None:
        return public_pictures(*public, cache_bytes=cache_bytes)
    image_folder(Path(name))  # complain now, and of the stream
    return Path(name)


def label_size(config: VisionConfig, name: str, patch: int) -> tuple[int, int]:
    """Height and width that a source's labelled pictures are brought to, in whole patches."""
    public = parse_public(name)
    given = config.dense.label_size
    sides = given or (PUBLISHED_SIZES[public[0]] if public else (config.views.image_size,) * 2)
    height, width = (max(patch, side // patch * patch) for side in sides)
    return height, width


def _source(
    config: VisionConfig,
    name: str,
    stream: Path | Pictures | None,
    counts: Mapping[str, int],
    patch: int,
    asked: Mapping[str, tuple[str, ...] | None],
) -> VisionData:
    data, dense = config.data, config.dense
    size, split = label_size(config, name, patch), data.eval_split
    public = parse_public(name)
    if public is not None:
        return public_data(
            *public,
            image_size=size,
            stream=stream,
            split=split,
            seed=config.run.seed,
            counts=counts,
            cache_bytes=round(data.in_memory * GIB),
            bad_files=data.bad_files or "refuse",
        )
    tasks = asked[name]
    maps = len(asked) == 1 or tasks is None or "segmentation" in tasks
    return folder_data(
        Path(name),
        image_size=size,
        stream=stream,
        eval_dir=None if data.eval is None else Path(data.eval),
        split=split,
        tasks=tasks,
        void=dense.void_label if maps else None,
        depth_scale=dense.depth_scale,
        seed=config.run.seed,
        counts=counts,
        cache_bytes=round(data.in_memory * GIB),
        bad_files=data.bad_files or "refuse",
    )
