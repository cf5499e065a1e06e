"""Recognises a folder's layout, and matches its pictures with their labels.

- `images/` with `labels/` and/or `depth/`, and the same as `image/`, `label/`, `depth/`: matched
  by the path below them, without the suffix;
- the same with `masks/` (or `image/` with `mask/`), and `JPEGImages/` with `SegmentationClass/` as
  Pascal VOC has them, whose palettes are class indices and whose 255 is no class; lists in
  `ImageSets/Segmentation/` name its parts (unless it is itself a part of what is below);
- `NAME/` with `NAMEannot/`, any number of them (CamVid as SegNet has it);
- `*.color.*` with `*.depth.*` (7-Scenes), at any depth;
- folders named after classes, in `images/` or without it (ImageFolder), for classification;
- `train/`, `val/`, `test/`, each of one of these layouts.

Files are taken in natural order (2 before 10), so that neighbours are neighbours in time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.class_folders import class_folders, is_no_class
from vfunc.vision.data.decoding import File
from vfunc.vision.data.listing import MAPS, PICTURES, by_stem, keyed, list_files, natural
from vfunc.vision.data.voc_lists import LISTS, listed_parts, require_listed

KNOWN = (
    "images/ with labels/, masks/ or depth/, image/ with label/ or mask/, JPEGImages/ with "
    "SegmentationClass/, NAME/ with NAMEannot/, *.color.* with *.depth.*, or folders of pictures "
    "named after classes (two or more), in images/ or not"
)
BESIDE = (
    ("images", "labels"),
    ("image", "label"),
    ("images", "masks"),
    ("image", "mask"),
    ("JPEGImages", "SegmentationClass"),
)
_VOC_IMAGES, _VOC_OBJECTS = "JPEGImages", "SegmentationObject"
VOC, VOC_VOID = "SegmentationClass/", 255
"""How a layout of Pascal VOC is told by its title, and its value of pixels without a class."""
SPLIT_FOLDERS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
"""Names of a data set's folders, and the splits they mean."""


@dataclass(frozen=True)
class Entry:
    """One labelled picture, not read yet.

    Attributes:
        image: the picture.
        segmentation: its label map.
        depth: its depth map.
        category: the name of its class.
        segmentation_turn: how the label map is to be turned, as EXIF counts; 1 is not at all.
        depth_turn: the same of the depth map.
    """

    image: File
    segmentation: File | None = None
    depth: File | None = None
    category: str | None = None
    segmentation_turn: int = 1
    depth_turn: int = 1


@dataclass(frozen=True)
class Pairs:
    """The labelled pictures of a folder, or of one of its train, val and test folders.

    Attributes:
        name: name of that folder, "" where there is none.
        layout: the layout recognised.
        entries: entries in natural order; an entry may lack one of the labels that others have.
        unmatched: label files without a picture.
        ignored: files of other kinds.
        aside: maps that are not used, which are no pictures either.
        notes: what else was left out, by reason.
    """

    name: str
    layout: str
    entries: tuple[Entry, ...]
    unmatched: tuple[Path, ...] = ()
    ignored: int = 0
    aside: tuple[Path, ...] = ()
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def split(self) -> str:
        """Its split: train, validation or test; train where the name says nothing."""
        return SPLIT_FOLDERS.get(self.name.lower(), "train")


@dataclass(frozen=True)
class _Layout:
    title: str
    images: Mapping[str, Path]
    maps: Mapping[str, Mapping[str, Path]] = field(default_factory=dict)
    ignored: int = 0
    classes: bool = False
    empty: tuple[str, ...] = ()


@typed
def find_pairs(folder: Path) -> list[Pairs]:
    """Recognise the layout of a folder and match its pictures with their labels.

    Args:
        folder: of one of the layouts in this module's docstring.

    Returns:
        The pairs of each of its folders, in natural order of their names; at least one, none empty.

    Raises:
        UserError: no layout or more than one fits, listing what there is; two files of one name;
            no picture has a label.
    """
    if not folder.is_dir():
        raise UserError(
            f"{folder}: {'is not a folder' if folder.exists() else 'there is no such folder'}"
        )
    found = _candidates(folder)
    if not found:
        nested = [f for f in _folders(folder) if f.name.lower() in SPLIT_FOLDERS and _candidates(f)]
        if not nested:
            has = ", ".join(f"{f.name}/" for f in _folders(folder)) or "no folders"
            no_classes = [f"{f.name}/" for f in _folders(folder) if is_no_class(f.name)]
            why = f" (not with {' and '.join(no_classes)} among them)" if no_classes else ""
            raise UserError(f"{folder}: holds {has}; known are {KNOWN}{why}")
        return [pairs for child in nested for pairs in _only(child, child.name)]
    return _only(folder, "")


def _only(folder: Path, name: str) -> list[Pairs]:
    found = _candidates(folder)
    if len(found) > 1:
        raise UserError(f"{folder}: ambiguous, it holds {' and '.join(found)}; keep one of them")
    (layouts,) = found.values()
    made = [_pairs(folder, name or title, layout) for title, layout in layouts().items()]
    if (folder / _VOC_IMAGES).is_dir() and made[0].layout.startswith(_VOC_IMAGES):
        return _voc_parts(folder, name, made[0])
    return made


def _voc_parts(folder: Path, name: str, pairs: Pairs) -> list[Pairs]:
    """The parts that lists name; all of it where there are none."""
    root, objects = folder / _VOC_IMAGES, folder / _VOC_OBJECTS
    pairs = replace(pairs, aside=tuple(list_files(objects, MAPS)[0]) if objects.is_dir() else ())
    parts = {} if name else listed_parts(folder)
    if not parts:
        return [pairs]
    images = [entry.image for entry in pairs.entries if isinstance(entry.image, Path)]
    stems = [str(image.relative_to(root).with_suffix("")) for image in images]
    entries = dict(zip(stems, pairs.entries, strict=True))
    require_listed(parts, set(entries), root)
    made: list[Pairs] = []
    notes: dict[str, tuple[str, ...]] = {}
    for part, listed in parts.items():
        named = set(listed.names)
        chosen = tuple(entry for stem, entry in entries.items() if stem in named)
        if any(_labelled(entry) for entry in chosen):
            title = f"{pairs.layout}, parts by {LISTS.parts[0]}/"
            made.append(Pairs(part, title, chosen))
        else:
            notes[f"pictures of {listed.file.name}, none of which has a label"] = listed.names
    if not made:
        raise UserError(f"{folder / LISTS}: none of the pictures listed there has a label")
    everything = {stem for listed in parts.values() for stem in listed.names}
    unlisted = [entry for stem, entry in entries.items() if stem not in everything]
    if spare := tuple(str(entry.image) for entry in unlisted if _labelled(entry)):
        notes["labelled pictures that no list names"] = spare
    maps = [f for e in unlisted for f in (e.segmentation, e.depth) if isinstance(f, Path)]
    first = replace(
        made[0],
        unmatched=pairs.unmatched,
        ignored=pairs.ignored,
        aside=(*pairs.aside, *maps),
        notes=notes,
    )
    return [first, *made[1:]]


def _labelled(entry: Entry) -> bool:
    return entry.segmentation is not None or entry.depth is not None


def _folders(folder: Path) -> list[Path]:
    inside = [f for f in folder.iterdir() if f.is_dir() and not f.name.startswith(".")]
    return sorted(inside, key=lambda f: natural(f.name))


def _candidates(folder: Path) -> dict[str, Callable[[], dict[str, _Layout]]]:
    """The possible layouts of a folder, each still to be read."""
    names = {f.name for f in _folders(folder)}
    found: dict[str, Callable[[], dict[str, _Layout]]] = {}
    for images, labels in sorted(BESIDE, key=lambda pair: pair[1] not in names):
        beside = {"label": labels, "depth": "depth"}
        beside = {kind: name for kind, name in beside.items() if name in names}
        if labels not in names and any(title.startswith(f"{images}/ with") for title in found):
            continue  # depth/ beside these pictures has been found
        if images in names and beside:
            title = f"{images}/ with {' and '.join(f'{name}/' for name in beside.values())}"
            found[title] = _reader(_beside, folder, title, images, beside)
    annotated = [name for name in names if f"{name}annot" in names]
    if annotated:
        annotated.sort(key=natural)
        title = " and ".join(f"{name}/ with {name}annot/" for name in annotated)
        found[title] = _reader(_annotated, folder, annotated)
    inside = _folders(folder / "images") if not found and "images" in names else []
    if any(f.name.lower() not in SPLIT_FOLDERS for f in inside):
        title = "images/ of class folders"
        found[title] = _reader(_class_folders, folder / "images", title, ())
    # sequences lie in folders of their own, but folders are searched one by one
    deep = not found and not any(name.lower() in SPLIT_FOLDERS for name in names)
    files = folder.rglob("*.*") if deep else folder.glob("*.*")
    if {n for f in files for n in ("color", "depth") if f".{n}." in f.name} == {"color", "depth"}:
        title = "*.color.* with *.depth.*"
        found[title] = _reader(_frames, folder, title)
    if not found:
        classes, empty = class_folders(_folders(folder))
        if classes:
            title = "class folders"
            found[title] = _reader(_class_folders, folder, title, tuple(empty))
    return found


def _reader(
    read: Callable[..., dict[str, _Layout]], *arguments: object
) -> Callable[[], dict[str, _Layout]]:
    return lambda: read(*arguments)


def _beside(folder: Path, title: str, images: str, beside: Mapping[str, str]) -> dict[str, _Layout]:
    pictures, ignored = by_stem(folder / images, PICTURES)
    maps = {kind: by_stem(folder / name, MAPS) for kind, name in beside.items()}
    others = ignored + sum(count for _, count in maps.values())
    return {"": _Layout(title, pictures, {k: files for k, (files, _) in maps.items()}, others)}


def _annotated(folder: Path, names: Iterable[str]) -> dict[str, _Layout]:
    layouts = {}
    for name in names:
        pictures, ignored = by_stem(folder / name, PICTURES)
        labels, others = by_stem(folder / f"{name}annot", MAPS)
        title = f"{name}/ with {name}annot/"
        layouts[name] = _Layout(title, pictures, {"label": labels}, ignored + others)
    return layouts


def _frames(folder: Path, title: str) -> dict[str, _Layout]:
    files, ignored = list_files(folder, MAPS)
    kinds: dict[str, list[Path]] = {"color": [], "depth": []}
    for path in files:
        kind = next((kind for kind in kinds if f".{kind}." in path.name), None)
        if kind:
            kinds[kind].append(path)
        else:
            ignored += 1
    colour, depth = (keyed(folder, kinds[kind], f".{kind}.") for kind in kinds)
    return {"": _Layout(title, colour, {"depth": depth}, ignored)}


def _class_folders(root: Path, title: str, empty: tuple[str, ...]) -> dict[str, _Layout]:
    files, ignored = list_files(root, PICTURES)
    loose = [path for path in files if path.parent == root]
    if loose:
        raise UserError(
            f"{root}: holds class folders and {loose[0].name} beside them; put it into a class"
        )
    images = {str(path.relative_to(root)): path for path in files}
    return {"": _Layout(title, images, ignored=ignored, classes=True, empty=empty)}


def _pairs(folder: Path, name: str, layout: _Layout) -> Pairs:
    where = f"{folder}: {layout.title}"
    if not layout.images:
        raise UserError(f"{where}, but no picture ({', '.join(PICTURES)}) is in it")
    entries = []
    for key, image in layout.images.items():
        category = Path(key).parts[0] if layout.classes else None
        maps = layout.maps
        entries.append(
            Entry(image, maps.get("label", {}).get(key), maps.get("depth", {}).get(key), category)
        )
    for kind, files in layout.maps.items():
        if not files.keys() & layout.images.keys():
            example = next(iter(files.values()), None)
            said = f" (there is {example.name})" if example else " (there is none)"
            raise UserError(f"{where}, but no {kind} has the name of a picture{said}")
    spare = [
        f for files in layout.maps.values() for key, f in files.items() if key not in layout.images
    ]
    notes = {"class folders without pictures": layout.empty} if layout.empty else {}
    return Pairs(name, layout.title, tuple(entries), tuple(spare), layout.ignored, notes=notes)
