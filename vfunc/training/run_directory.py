"""Lays out the files of a run.

runs/<name>/
  config.toml           the resolved configuration; `--config` with it repeats the run
  events.jsonl          one line a step, evaluation and probe point
  metrics.json          results of every arm, comparisons, versions
  table.txt, table.md   the final table
  arms/<arm>.json       one finished arm's results, with every example's outcome
  start.json            the learner that all of them start from, evaluated
  diverged.json         why the run ended before its end, if something was not finite
  checkpoints/<arm>.pt  an unfinished arm, to resume from; <arm>.previous.pt, the one before; of a
                        finished arm its end, with --leave-checkpoints
  learners/<arm>/       save_pretrained directory
  designers/<arm>.safetensors
  plots/*.png
  report.html           all of this as a page, see `vfunc.report.page`
  manifest.json         digests of all of these but the page, and of what the run was made from
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.storage.digests import digest_of_file, so_far
from vfunc.storage.manifest import NAME, Manifest, read_manifest, require_digest
from vfunc.training.checkpoint import previous, write_json
from vfunc.training.files.written import ENTRIES, strangers

__all__ = ["ENTRIES", "RunDirectory", "free_name", "require_replaceable"]


@dataclass(frozen=True)
class RunDirectory:
    """A run's folder, and where things are in it."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.toml"

    @property
    def events(self) -> Path:
        """The event log."""
        return self.path / "events.jsonl"

    @property
    def metrics(self) -> Path:
        """Everything that was measured."""
        return self.path / "metrics.json"

    @property
    def start(self) -> Path:
        """The start learner's results."""
        return self.path / "start.json"

    @property
    def diverged(self) -> Path:
        """Why the run ended, if something was not finite."""
        return self.path / "diverged.json"

    @property
    def plots(self) -> Path:
        """The folder of pictures."""
        return self.path / "plots"

    def result(self, arm: str) -> Path:
        """A finished arm's results."""
        return self.path / "arms" / f"{arm}.json"

    def checkpoint(self, arm: str) -> Path:
        """An unfinished arm's state."""
        return self.path / "checkpoints" / f"{arm}.pt"

    def learner(self, arm: str) -> Path:
        """A finished arm's learner."""
        return self.path / "learners" / arm

    def designer(self, arm: str) -> Path:
        """A finished arm's designer."""
        return self.path / "designers" / f"{arm}.safetensors"

    def finished(self, arm: str) -> dict[str, Any] | None:
        """A finished arm's results, or None.

        Raises:
            UserError: they are not as they were written.
        """
        return self.read(self.result(arm))

    def read(self, path: Path) -> dict[str, Any] | None:
        """A JSON file of the run, checked; None where it is not there, or not wholly written.

        Raises:
            UserError: it is not as it was written.
        """
        if not path.exists():
            return None
        manifest = self.manifest()
        if manifest is not None:
            digest = manifest.files.get(self.name_of(path))
            if digest is None:  # the process died before it was done
                return None
            try:
                require_digest(path, digest)
            except UserError as error:
                raise UserError(f"{error}, or remove it, and it is made again") from error
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} is damaged: {error}") from error
        if not isinstance(content, dict):
            raise UserError(f"{path} is damaged: it holds no results")
        return content

    def manifest(self) -> Manifest | None:
        """The run's manifest; None for a run of before there were any.

        Raises:
            UserError: it is damaged.
        """
        return read_manifest(self.path)

    def forget_checkpoints(self, arm: str) -> None:
        """Remove the checkpoints of an arm that is finished, but one that is to be kept."""
        newest = self.checkpoint(arm)
        for path in (previous(newest),) if self.keeps(arm) else (newest, previous(newest)):
            path.unlink(missing_ok=True)

    def keeps(self, arm: str) -> bool:
        """Whether a finished arm's last checkpoint is one of the run's files."""
        manifest = self.manifest()
        return manifest is not None and self.name_of(self.checkpoint(arm)) in manifest.files

    def is_adopted(self, path: Path) -> bool:
        """Whether a checkpoint is one of before there were seals, as it was when first seen."""
        manifest = self.manifest()
        digest = None if manifest is None else manifest.files.get(self.name_of(path))
        return digest is not None and path.exists() and digest_of_file(path) == digest

    def name_of(self, path: Path) -> str:
        """A file's name in the manifest."""
        return path.relative_to(self.path).as_posix()

    def digests(self, *paths: Path) -> dict[str, str]:
        """Digests of files, and of all files below folders, by their names in the manifest."""
        files = (f for path in paths for f in ([path] if path.is_file() else path.rglob("*")))
        return {self.name_of(f): digest_of_file(f) for f in sorted(files) if f.is_file()}

    def keep(self, manifest: Manifest) -> None:
        """Write the manifest.

        Raises:
            OSError: it cannot be written.
        """
        write_json(self.path / NAME, manifest.as_json())

    def record(self, *paths: Path, events: bool = False) -> None:
        """Add files to the manifest, and those below folders, as they are now.

        Args:
            *paths: files and folders that have been written.
            events: whether the event log is recorded as far as it has come.

        A folder without a manifest gets none: what stands in it already would count as unfinished.

        Raises:
            UserError: the manifest is damaged.
            OSError: it cannot be written.
        """
        manifest = self.manifest()
        if manifest is None:
            return
        log = so_far(self.events) if events else manifest.events
        files = {**manifest.files, **self.digests(*paths)}
        self.keep(replace(manifest, files=files, events=log))


def require_replaceable(run: RunDirectory) -> None:
    """What is replaced holds what a run writes, and directly in its folder nothing else.

    Raises:
        UserError: it is no run, or holds something else; it is left alone.
    """
    if not run.path.is_dir() or run.path.is_symlink():
        raise UserError(f"--overwrite: {run.path} is not a run's directory; left alone")
    there = sorted(entry.name for entry in run.path.iterdir() if entry.name != ".lock")
    if there and not run.config.exists():
        raise UserError(f"--overwrite: {run.path} is not a run (no config.toml); left alone")
    if strange := strangers(run.path):
        raise UserError(
            f"--overwrite: {run.path} holds {strange[0]!r}, which no run writes; left alone"
        )


def free_name(runs: Path, stem: str) -> str:
    """`stem`, or `stem-2`, `stem-3`, ...: the first that no run has."""
    name, number = stem, 1
    while (runs / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name
