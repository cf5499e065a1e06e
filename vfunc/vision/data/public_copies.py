"""Local copies of public data sets, in the folders that they are published in."""

from __future__ import annotations

from pathlib import Path

from vfunc.errors import UserError
from vfunc.typecheck import typed
from vfunc.vision.data.layouts import Entry, find_pairs
from vfunc.vision.data.listing import MAPS, PICTURES, by_stem, keyed, list_files


@typed
def ade20k_copy(root: Path, part: str) -> list[Entry]:
    """Entries of `ADEChallengeData2016/`: images/ and annotations/, each training/ or validation/.

    Args:
        root: that folder, or the one that it is in.
        part: train or test; the labels of the benchmark's own test part are not published.

    Raises:
        UserError: folders or annotations are missing.
    """
    inner = root / "ADEChallengeData2016"
    root = inner if inner.is_dir() else root
    folder = {"train": "training", "test": "validation"}[part]
    images, labels = root / "images" / folder, root / "annotations" / folder
    for path in (images, labels):
        if not path.is_dir():
            raise UserError(
                f"ade20k:{root}: there is no {path.relative_to(root)}/; give the folder of "
                "ADEChallengeData2016"
            )
    pictures, _ = by_stem(images, PICTURES)
    maps, _ = by_stem(labels, MAPS)
    _require_all(labels, pictures, maps)
    return [Entry(path, segmentation=maps[key]) for key, path in pictures.items()]


@typed
def nyuv2_copy(root: Path, part: str) -> list[Entry]:
    """Entries of NYUv2: `SCENE/rgb_N.jpg` with `SCENE/sync_depth_N.png`, or any layout of pairs.

    Args:
        root: holds train/ (or sync/) and test/ (or official_splits/test/), the names that
            github.com/cleinc/bts made common, or is the folder above.
        part: train or test.

    Raises:
        UserError: folders or depth maps are missing.
    """
    inner = root / "nyu_depth_v2"
    root = inner if inner.is_dir() else root
    names = {
        "train": ("train", "sync", "official_splits/train"),
        "test": ("test", "val", "official_splits/test"),
    }[part]
    found = [root / name for name in names if (root / name).is_dir()]
    if len(found) != 1:
        has = " and ".join(f"{path.relative_to(root)}/" for path in found) or "none"
        raise UserError(
            f"nyuv2:{root}: holds {has} of {', '.join(n + '/' for n in names)}; keep one"
        )
    (folder,) = found
    files, _ = list_files(folder, MAPS)
    colour = [path for path in files if path.name.startswith("rgb_")]
    if not colour:
        return [entry for pairs in find_pairs(folder) for entry in pairs.entries if entry.depth]
    depth = [path for path in files if path.name.startswith("sync_depth_")]
    maps = keyed(folder, depth, None)
    pictures = {
        str(Path(key).with_name("sync_depth_" + Path(key).name.removeprefix("rgb_"))): path
        for key, path in keyed(folder, colour, None).items()
    }
    _require_all(folder, pictures, maps)
    return [Entry(path, depth=maps[key]) for key, path in pictures.items()]


@typed
def imagenet_copy(root: Path, part: str) -> list[Entry]:
    """Entries of `train/CLASS/` and `val/CLASS/`, as torchvision's ImageFolder has them.

    A class is its folder's position among train/'s, in the order of their names.

    Raises:
        UserError: folders are missing, or val/ has a class that train/ has not.
    """
    imagenet_categories(root)
    folder = root / {"train": "train", "test": "val"}[part]
    files, _ = list_files(folder, PICTURES)
    if not files:
        raise UserError(f"{folder}: no pictures are in it")
    return [Entry(path, category=path.relative_to(folder).parts[0]) for path in files]


def imagenet_categories(root: Path) -> list[str]:
    """The names of the class folders, sorted, which is the published order of the classes.

    Raises:
        UserError: folders are missing, or those of train/ and val/ differ.
    """
    found = {}
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise UserError(f"imagenet:{root}: there is no {part}/ of class folders in it")
        found[part] = {path.name for path in (root / part).iterdir() if path.is_dir()}
    strange = sorted(found["val"] ^ found["train"])
    if strange:
        raise UserError(
            f"imagenet:{root}: train/ and val/ are of different classes, as {strange[0]}; put "
            "val/'s pictures into the folders of their classes"
        )
    return sorted(found["train"])


def _require_all(labels: Path, pictures: dict[str, Path], maps: dict[str, Path]) -> None:
    missing = [path for key, path in pictures.items() if key not in maps]
    if missing or not pictures:
        raise UserError(
            f"{labels}: {len(missing)} of {len(pictures)} pictures have nothing in it, as "
            f"{missing[0].name if missing else 'all'}; complete the copy"
        )
