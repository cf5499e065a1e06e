"""Finds the directories of runs below those that a command line names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vfunc.errors import UserError


def run_places(paths: Sequence[Path]) -> list[Path]:
    """The directories of runs, finished or not, each once.

    Args:
        paths: directories of runs, or folders with such directories, three levels deep at most,
            as `compare` lays them out: setting, estimator, seed.

    Raises:
        UserError: there is no run in one of them.
    """
    places: dict[Path, Path] = {}
    for path in paths:
        configs = [c for depth in range(4) for c in path.glob(f"{'*/' * depth}config.toml")]
        runs = sorted(config.parent for config in configs)
        if not runs:
            raise UserError(f"--from {path}: there is no run (a directory with a config.toml)")
        for run in runs:
            places.setdefault(run.resolve(), run)
    return list(places.values())
