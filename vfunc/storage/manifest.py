"""A folder's manifest: which files a run wrote there, and their digests.

Files are checked against it when they are read, wherever the folder has been moved to; it tells as
well what may be removed where a run is replaced. It is written by `vfunc.training.files`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.storage.digests import digest_of_file, digest_of_json

NAME = "manifest.json"
_FORMAT = "vfunc run"
_ABOVE = 3  # runs/x/learners/baseline/model.safetensors is so far below its manifest


@dataclass(frozen=True)
class Manifest:
    """What a run has written into its folder, and from what.

    Attributes:
        files: digests of finished files, by their path in the folder.
        identity: configuration and data of the run, see `vfunc.training.files.identity`.
        events: how long the event log was when the last arm was finished, and its digest so far.
        before: digests that count no more: of identities that were given up by `--accept-changes`,
            and of logs from which the events of an arm were dropped that is trained anew.
        accepted: what had changed then, in words.
    """

    files: Mapping[str, str] = field(default_factory=dict)
    identity: Mapping[str, Any] = field(default_factory=dict)
    events: Mapping[str, Any] | None = None
    before: tuple[str, ...] = ()
    accepted: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The manifest as plain data, with a digest of its own."""
        content = {"format": _FORMAT} | asdict(self)
        content |= {"before": list(self.before), "accepted": list(self.accepted)}
        return content | {"sha256": digest_of_json(content)}


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None where it has none.

    Raises:
        UserError: it is damaged.
    """
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("sha256") != digest_of_json(content):
            raise ValueError("its digest differs")
        if content.pop("format") != _FORMAT:
            raise ValueError("another format")
        content |= {name: tuple(content[name]) for name in ("before", "accepted")}
        return Manifest(**content)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}); restore it from a copy") from error


def require_as_written(path: Path) -> None:
    """Refuse a file of a run, or a folder of such files, that is not as the run wrote it.

    What is below no run's folder, or was written by a run of before there were manifests, passes.

    Raises:
        UserError: a file has changed or is gone.
    """
    path = path.resolve()
    for folder in list(path.parents)[:_ABOVE]:
        if not _is_runs(folder):
            continue
        manifest = read_manifest(folder)
        assert manifest is not None
        inside = path.relative_to(folder).as_posix()
        for name, digest in manifest.files.items():
            if name == inside or name.startswith(f"{inside}/"):
                require_digest(folder / name, digest)
        return


def require_digest(path: Path, digest: str) -> None:
    """Refuse a file whose digest is another.

    Raises:
        UserError: it has changed, is gone or cannot be read.
    """
    try:
        found = digest_of_file(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    if found != digest:
        raise UserError(
            f"{path} is not as the run wrote it: it is damaged, or was changed since; restore it "
            "from a copy"
        )


def _is_runs(folder: Path) -> bool:
    """Whether a folder's manifest.json is a run's: others use the name too."""
    path = folder / NAME
    try:
        return path.is_file() and f'"{_FORMAT}"' in path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
