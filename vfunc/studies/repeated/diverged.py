"""Tells runs that diverged from those that are finished or interrupted, and what to say of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vfunc.errors import NonFiniteError
from vfunc.training.run_directory import RunDirectory


def reason_diverged(path: Path) -> str | None:
    """What was not finite in a run that ended by it; None where a run did not.

    Args:
        path: the run's directory.
    """
    run = RunDirectory(path)
    if run.metrics.exists() or not run.diverged.exists():
        return None
    try:
        return str(json.loads(run.diverged.read_text(encoding="utf-8"))["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return "something was not finite"  # the file's being there says so


def diverged_among(paths: Sequence[Path]) -> dict[Path, str]:
    """The runs that diverged, and why.

    Args:
        paths: directories of runs.
    """
    reasons = {path: reason_diverged(path) for path in paths}
    return {path: reason for path, reason in reasons.items() if reason is not None}


def told_left_out(diverged: Mapping[Path, str]) -> list[str]:
    """A note on each run that is left out."""
    return [
        f"{path} is left out, since it diverged: {reason}. It is not made again unless its folder "
        "is removed, or --overwrite given."
        for path, reason in diverged.items()
    ]


def raise_if_any(diverged: Mapping[Path, str], runs: int) -> None:
    """End a comparison that lacks runs with an error.

    Args:
        diverged: the runs that are left out.
        runs: how many runs there are, these included.

    Raises:
        NonFiniteError: there is one.
    """
    if diverged:
        path, reason = next(iter(diverged.items()))
        others = f", and {len(diverged) - 1} more" if len(diverged) > 1 else ""
        raise NonFiniteError(
            f"{len(diverged)} of {runs} runs diverged and are left out: {path} ({reason}){others}"
        )
