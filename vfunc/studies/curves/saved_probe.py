"""The one-step probe of saved runs: predicted against realised decrease on M tasks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from vfunc.errors import UserError
from vfunc.evaluation.probe import ProbePoint
from vfunc.report.probe_events import probe_name
from vfunc.studies.curves.curve_files import (
    folder_of,
    new_console,
    require_writable,
    write_curve,
)
from vfunc.studies.curves.curve_options import ProbeOptions
from vfunc.studies.curves.probe_curve import Decrease, Probed, curve_of
from vfunc.studies.curves.saved_arm import FoundArm, SavedArm, find_arm, saved_arm
from vfunc.studies.finished_runs import NO_SETTING, run_places
from vfunc.training.probing import probed_batch
from vfunc.training.provenance import provenance
from vfunc.training.run_directory import RunDirectory


def make(options: ProbeOptions, rest: Sequence[str], command: str) -> None:
    """Probe the runs, and write scatter and correlations.

    Args:
        options: the runs, the arm, and how many tasks.
        rest: nothing.
        command: the command line, for the record.

    Raises:
        UserError: see `find_arm` and `require_repeats`; no run has been probed then.
    """
    del rest
    require_writable(options.output)
    places, console = run_places([Path(place) for place in options.from_]), new_console()
    folder = folder_of(places, options.output)
    found = [
        find_arm(RunDirectory(path), options.arm, device=options.device, threads=options.threads)
        for path in places
    ]
    require_repeats(found)
    probed, runs = list[Probed](), list[dict[str, Any]]()
    for path, one in zip(places, found, strict=True):
        saved = saved_arm(one)
        console.print(
            f"{path}, {options.arm} at step {saved.run.state.counters.step}: {options.batches} "
            "tasks",
            soft_wrap=True,
        )
        probed.append(probe_of(path, saved, options.batches))
        device = next(saved.run.state.learner.parameters()).device
        runs.append({"path": str(path), "config": saved.told, **provenance(device)})
    write_curve(curve_of(probed, options), runs, command, folder, console)


def require_repeats(found: Sequence[FoundArm]) -> None:
    """Refuse runs that are no repeats of one another, over which nothing is to be averaged.

    Raises:
        UserError: two differ in more than their seed, or not in their seed.
    """
    first = found[0]
    seeds: dict[int, Path] = {}
    for one in found:
        told = [{n: v for n, v in of.told.items() if n not in NO_SETTING} for of in (first, one)]
        paths = f"{first.directory.path} and {one.directory.path}"
        if first.config.run.modality != one.config.run.modality:
            raise UserError(
                f"--from: runs of text and of pictures are no one probe ({paths}); give those of "
                "one"
            )
        if other := [n for n in {**told[0], **told[1]} if told[0].get(n) != told[1].get(n)]:
            differ = ", ".join(f"{n} {told[0].get(n)} and {told[1].get(n)}" for n in other)
            raise UserError(
                f"--from: runs of one setting make a probe, and {paths} differ ({differ})"
            )
        seed = one.config.run.seed
        before = seeds.setdefault(seed, one.directory.path)
        if before != one.directory.path:
            raise UserError(
                f"--from: {before} and {one.directory.path} both have seed {seed}, and are no two "
                "repeats; leave one out"
            )


def probe_of(path: Path, saved: SavedArm, batches: int) -> Probed:
    """Predicted and realised decreases of one step on each of so many tasks.

    The tasks are those of the micro-batches that the run would come to next, and the first of them
    are those of its own probe at this state.

    Args:
        path: the run's directory.
        saved: the arm, which stays as it is.
        batches: M.
    """
    made = (probed_batch(saved.run, k).points for k in range(batches))
    points, left_out = decreases_of(made, whole=saved.whole)
    if not points:
        raise UserError(f"{path}: no decrease is finite; the arm's training has broken down")
    return Probed(
        path, saved.run.state.counters.step, saved.whole, saved.loss_unit, points, left_out
    )


def decreases_of(
    tasks: Iterable[Sequence[ProbePoint]], *, whole: bool
) -> tuple[dict[str, tuple[Decrease, ...]], int]:
    """The finite decreases by kind of step in words, and how many are not finite.

    Args:
        tasks: what was measured of each task, in the order of the tasks.
        whole: whether there is a real step (see `SavedArm`).
    """
    found: dict[str, list[Decrease]] = {}
    left_out = 0
    for k, points in enumerate(tasks):
        for point in points:
            if point.step == "real" and not whole:
                continue
            if math.isfinite(point.predicted) and math.isfinite(point.realised):
                name = probe_name(point.step, point.feedback)
                found.setdefault(name, []).append(Decrease(k, point.predicted, point.realised))
            else:
                left_out += 1
    return {name: tuple(made) for name, made in found.items()}, left_out
