"""Names of everything that a run writes into its folder, and removal of that alone.

What a manifest lists was written by the run. What it does not list (a run that was killed, or one
of before there were manifests) is told by its name.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.storage import lock, manifest

FOLDERS = ("arms", "checkpoints", "learners", "designers", "plots", "tensorboard", "wandb")
ENTRIES = (
    "config.toml",
    "events.jsonl",
    "metrics.json",
    "table.txt",
    "table.md",
    "report.html",
    "start.json",
    "diverged.json",
    manifest.NAME,
    *FOLDERS,
)
"""Everything that a finished run leaves in its folder."""

_ARM = "|".join(map(re.escape, ARMS))
_WRITTEN = re.compile(
    rf"arms/({_ARM})\.json"
    rf"|checkpoints/({_ARM})(\.previous)?\.pt"
    rf"|designers/({_ARM})\.safetensors"
    rf"|plots/(learning_curves|value_curves|probe|value_map_({_ARM})(_at_start)?)\.png"
    rf"|tensorboard/({_ARM})/events\.out\.tfevents\..+|wandb/.+"
    # what save_pretrained and timm write for a learner and its tokenizer
    rf"|learners/({_ARM})/((adapter_|generation_)?config\.json|README\.md"
    r"|(adapter_)?model(-\d+-of-\d+)?\.safetensors(\.index\.json)?"
    r"|tokenizer(_config)?\.json|tokenizer\.model|special_tokens_map\.json|added_tokens\.json"
    r"|vocab\.(json|txt)|merges\.txt|spiece\.model|chat_template\.jinja"
    r"|(pre)?processor_config\.json)"
)
# a write that was killed leaves its temporary file: .config.toml.x1y2z3
_TEMPORARY = re.compile(r"(.*/)?\.(?P<name>[^/]+)\.[a-z0-9_]{8}")


def strangers(folder: Path) -> list[str]:
    """Names directly in a run's folder that no run writes."""
    there = sorted(entry.name for entry in folder.iterdir())
    return [n for n in there if n not in (*ENTRIES, lock.NAME) and _finished_name(n) not in ENTRIES]


def remove_written(folder: Path, keep: Iterable[str] = ()) -> None:
    """Remove what a run wrote, and folders that are empty then.

    Args:
        folder: the run's.
        keep: names that stay.

    Raises:
        OSError: something cannot be removed.
    """
    for path in _written(folder):
        if path.name not in keep:
            path.unlink()
    for name in FOLDERS:
        below = sorted(_folders(folder / name), key=lambda p: len(p.parts), reverse=True)
        for one in below:
            if not any(one.iterdir()):
                one.rmdir()


def remove_temporary(folder: Path) -> None:
    """Remove the temporary files of writes that were killed; nobody else may be writing.

    Raises:
        OSError: one cannot be removed.
    """
    for name in ("", *FOLDERS):
        for path in (folder / name).glob(".*") if (folder / name).is_dir() else ():
            inside = path.relative_to(folder).as_posix()
            if path.is_file() and _is_written(_finished_name(inside)) and inside != lock.NAME:
                path.unlink()


def _written(folder: Path) -> Iterator[Path]:
    try:
        said = manifest.read_manifest(folder)
    except UserError:  # damaged: names tell
        said = None
    listed = set() if said is None else set(said.files)
    for name in ENTRIES:
        if name not in FOLDERS and (folder / name).is_file():
            yield folder / name
    # no link is followed: what is behind it was not written here
    for place in (folder, *(p for name in FOLDERS for p in _folders(folder / name))):
        for path in sorted(place.iterdir()):
            inside = path.relative_to(folder).as_posix()
            known = inside in listed or _is_written(_finished_name(inside) or inside)
            if inside not in ENTRIES and known and (path.is_file() or path.is_symlink()):
                yield path


def _folders(folder: Path) -> Iterator[Path]:
    """A folder and all below it, links left out."""
    if folder.is_dir() and not folder.is_symlink():
        yield folder
        for entry in sorted(folder.iterdir()):
            yield from _folders(entry)


def _is_written(inside: str | None) -> bool:
    return inside is not None and (inside in ENTRIES or _WRITTEN.fullmatch(inside) is not None)


def _finished_name(inside: str) -> str | None:
    """What a temporary file was to become; None for other files."""
    found = _TEMPORARY.fullmatch(inside)
    return None if found is None else f"{found.group(1) or ''}{found.group('name')}"
