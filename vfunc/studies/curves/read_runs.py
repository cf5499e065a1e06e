"""Finds the finished runs that a curve reads, of one setting, and the arms that all have."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vfunc.errors import UserError
from vfunc.studies.finished_runs import FoundRun, find_runs


def runs_of_one_setting(places: Sequence[str]) -> list[FoundRun]:
    """The finished runs in directories, by their seeds.

    Args:
        places: directories of runs, or folders that hold such directories.

    Raises:
        UserError: a directory holds no run or one that is not finished, or they are of several
            settings.
    """
    found = find_runs([Path(place) for place in places])
    settings = dict.fromkeys(one.setting for one in found)
    if len(settings) > 1:
        told = "; ".join(settings)
        raise UserError(f"--from: runs of one setting make a curve, and these differ ({told})")
    return sorted(found, key=lambda one: one.seed_run.seed)


def arms_of(found: Sequence[FoundRun], wanted: Sequence[str] | None) -> list[str]:
    """The arms that all runs have, or those that are wanted of them, each once.

    Raises:
        UserError: a run lacks one that is wanted, or they have none in common.
    """
    held = [list(one.seed_run.arms) for one in found]
    shared = [arm for arm in held[0] if all(arm in arms for arms in held)]
    for arm in wanted or ():
        if arm not in shared:
            lacking = next(f for f, arms in zip(found, held, strict=True) if arm not in arms)
            raise UserError(
                f"--arms {arm}: {lacking.path} has no such arm; all have {', '.join(shared)}"
            )
    if not shared:
        raise UserError("the runs have no arm in common")
    return list(dict.fromkeys(wanted or shared))
