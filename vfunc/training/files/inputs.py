"""What a run reads, and its digests: data, learner and designer, by the options that name them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vfunc.conditions import EMBEDDED
from vfunc.config.known import flag
from vfunc.errors import UserError
from vfunc.storage.digests import digest_of_file, digest_of_json, digests_below
from vfunc.training.build.configuration import catalogue_of_config
from vfunc.training.options.run_config import RunConfig
from vfunc.training.options.run_options import VISION

_NAMED = 2000  # files of a folder, of which each keeps a digest of its own


def read_by(config: RunConfig) -> dict[str, tuple[str, Path]]:
    """Files and folders that a run reads, by role: the option that names each, and where it is.

    Names that are no files (a data set of the Hub, a model by its name) are left out.
    """
    found = {}
    for name, known in catalogue_of_config(config).items():
        value = config.options.get(name)
        if not known.said.reads or value is None:
            continue
        values = value if isinstance(value, tuple) else (value,)
        for number, text in enumerate(values, 1):
            path = _path_of(text, named=config.run.modality == VISION or name == "benchmarks")
            if path is not None:
                role = flag(name) if len(values) == 1 else f"{flag(name)} ({number})"
                found[role] = name, path
    return found


def digests_of(
    config: RunConfig, known: dict[Path, dict[str, Any]] | None = None
) -> dict[str, dict[str, Any]]:
    """The digest of everything that a run reads from files, by role.

    Args:
        config: resolved.
        known: what has been read already, by its place; what is read now is added.

    Raises:
        UserError: a file cannot be read.
    """
    known, found = {} if known is None else known, {}
    for role, (name, path) in read_by(config).items():
        if path not in known:
            known[path] = _digested(path)
        found[role] = {"option": name, "path": str(path), **known[path]}
    return found


def differing(role: str, then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """How what was read by a role differs, in words; a folder's files one by one."""
    before, after = then.get("files"), now.get("files")
    path = now.get("path", "")
    if not before or not after:
        who = f"{role} {path}".rstrip()
        yield f"{who}: other contents ({_short(then)} then, {_short(now)} now)"
        return
    for name in sorted(before.keys() | after.keys()):
        if before.get(name) != after.get(name):
            how = "is new" if name not in before else "is gone" if name not in after else "changed"
            yield f"{role} {path}/{name} {how}"


def _digested(path: Path) -> dict[str, Any]:
    try:
        if path.is_dir():
            files = digests_below(path)
            found: dict[str, Any] = {"sha256": digest_of_json(files)}
            if len(files) <= _NAMED:
                found["files"] = {file: digest[:16] for file, digest in files.items()}
        else:
            # how a file is read depends on its endings too
            found = {"sha256": digest_of_json([path.suffixes, digest_of_file(path)])}
    except OSError as error:
        raise UserError(f"{error.filename or path}: cannot be read ({error.strerror})") from error
    return found


def _path_of(text: str, *, named: bool) -> Path | None:
    """Where a name leads to; `ade20k:DIR` to the folder if it is so named; a weight does not count.

    What is embedded leads nowhere.
    """
    if text == EMBEDDED:
        return None
    for spelled in (text, text.partition(":")[2] if named else _without_weight(text)):
        path = Path(spelled).expanduser()
        if spelled and path.exists():
            return path
    return None


def _without_weight(text: str) -> str:
    """The name of a weighted source of text."""
    # imported here: runs on pictures do without language's libraries
    from vfunc.language.data.mixture import without_weight

    return without_weight(text)


def _short(found: Mapping[str, Any]) -> str:
    return str(found.get("sha256", "nothing"))[:12]
