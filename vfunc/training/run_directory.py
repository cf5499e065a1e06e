"""Lays out the files of a run.

runs/<name>/
  config.toml           the resolved configuration; `--config` with it repeats the run
  events.jsonl          one line a step, evaluation and probe point
  metrics.json          results of every arm, comparisons, versions
  table.txt, table.md   the final table
  arms/<arm>.json       one finished arm's results, with every example's outcome
  start.json            the learner that all of them start from, evaluated
  checkpoints/<arm>.pt  an unfinished arm, to resume from
  learners/<arm>/       save_pretrained directory
  designers/<arm>.safetensors
  plots/*.png
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.training.checkpoint import write_atomically

ENTRIES = (
    "config.toml",
    "events.jsonl",
    "metrics.json",
    "table.txt",
    "table.md",
    "arms",
    "start.json",
    "checkpoints",
    "learners",
    "designers",
    "plots",
)
"""Everything that a run leaves in its folder."""
TEMPORARY = tuple(f".{name}." for name in ENTRIES)


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
        """A finished arm's results, or None."""
        path = self.result(arm)
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def new_run(runs: Path, name: str, config: str, *, overwrite: bool) -> RunDirectory:
    """Make a run's folder with its configuration in it.

    Args:
        runs: the folder of all runs.
        name: this run's.
        config: the run's resolved configuration, as TOML.
        overwrite: whether a run of that name is replaced.

    Raises:
        UserError: it exists and is not to be replaced, or is no run.
    """
    run = RunDirectory(runs / name)
    if run.path.exists():
        if not overwrite:
            raise UserError(
                f"the run {run.path} exists; give --name another name, --overwrite to replace it, "
                f"or --resume {name} to go on with it"
            )
        _require_run(run)
        shutil.rmtree(run.path)
    run.path.mkdir(parents=True)
    write_atomically(run.config, lambda t: Path(t).write_text(config, encoding="utf-8"))
    return run


def _require_run(run: RunDirectory) -> None:
    """What is deleted holds what a run writes, and nothing else."""
    if not run.path.is_dir() or run.path.is_symlink():
        raise UserError(f"--overwrite: {run.path} is not a run's directory; left alone")
    there = sorted(entry.name for entry in run.path.iterdir())
    if there and not run.config.exists():
        raise UserError(f"--overwrite: {run.path} is not a run (no config.toml); left alone")
    # a write that was killed leaves its temporary file: .config.toml.x1y2z3
    strangers = [n for n in there if n not in ENTRIES and not n.startswith(TEMPORARY)]
    if strangers:
        raise UserError(
            f"--overwrite: {run.path} holds {strangers[0]!r}, which no run writes; left alone"
        )


def free_name(runs: Path, stem: str) -> str:
    """`stem`, or `stem-2`, `stem-3`, ...: the first that no run has."""
    name, number = stem, 1
    while (runs / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name
