"""Finds and checks the directories that a command line names."""

from __future__ import annotations

import tempfile
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


def require_output(output: str | None) -> None:
    """Refuse a folder that cannot be written to, before time is spent on what it is to hold.

    Args:
        output: the folder that `--output` names, which need not be there.

    Raises:
        UserError: something else is there, or on the way to it, or nothing can be written there.
    """
    if output is None:
        return
    path = Path(output).absolute()
    there = next(place for place in (path, *path.parents) if place.exists())
    if not there.is_dir():
        raise UserError(f"--output {output}: {there} is a file; give a folder")
    try:
        with tempfile.TemporaryDirectory(dir=there):
            pass
    except OSError as error:
        raise UserError(
            f"--output {output}: nothing can be written in {there} ({error.strerror}); give "
            "another folder"
        ) from error
