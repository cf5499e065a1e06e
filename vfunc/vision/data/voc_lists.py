"""Reads the lists of pictures by which Pascal VOC names the parts of its segmentation data.

`ImageSets/Segmentation/` holds `train.txt`, `val.txt`, `trainval.txt` and `test.txt`, a picture's
name a line, without its suffix (Everingham et al. 2010, "The Pascal Visual Object Classes
Challenge").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vfunc.errors import UserError
from vfunc.typecheck import typed

LISTS = Path("ImageSets") / "Segmentation"
_WHOLE = "trainval"


@dataclass(frozen=True)
class Listed:
    """The pictures of a part.

    Attributes:
        file: the list.
        names: their names, in the order of the list, each once.
    """

    file: Path
    names: tuple[str, ...]


@typed
def listed_parts(folder: Path) -> dict[str, Listed]:
    """The parts train, val and test that lists below a folder name; none without such lists.

    Of `trainval.txt` and one of its halves the other half is what is left; alone it is for
    training.

    Raises:
        UserError: a list cannot be read, or names nothing.
    """
    found = {
        name: _listed(folder / LISTS / f"{name}.txt")
        for name in ("train", "val", "test", _WHOLE)
        if (folder / LISTS / f"{name}.txt").is_file()
    }
    whole = found.pop(_WHOLE, None)
    halves = [name for name in ("train", "val") if name in found]
    if whole is not None and len(halves) < 2:
        taken = set(found[halves[0]].names) if halves else set()
        rest = Listed(whole.file, tuple(name for name in whole.names if name not in taken))
        if rest.names:
            found["val" if halves == ["train"] else "train"] = rest
    return {name: found[name] for name in ("train", "val", "test") if name in found}


@typed
def require_listed(parts: dict[str, Listed], pictures: set[str], where: Path) -> None:
    """Refuse lists that name pictures which are not there.

    Args:
        parts: the lists.
        pictures: names of the pictures that there are.
        where: the pictures' folder.

    Raises:
        UserError: names the list and the first of them.
    """
    for part in parts.values():
        missing = [name for name in part.names if name not in pictures]
        if missing:
            more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise UserError(
                f"{part.file}: names {missing[0]}{more}, of which {where} has no picture; bring "
                "the pictures, or take the names off the list"
            )


def _listed(file: Path) -> Listed:
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "not UTF-8 text"
        raise UserError(f"{file}: cannot be read ({said})") from error
    names = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise UserError(f"{file}: names no picture; fill it, or remove it")
    return Listed(file, names)
