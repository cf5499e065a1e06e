"""Makes several runs at the same time, each in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from vfunc.errors import UserError
from vfunc.studies.repeated.diverged import reason_diverged
from vfunc.studies.repetition import PlannedRun
from vfunc.training.build.configuration import to_toml

PAUSE = 0.2
"""Seconds between two looks at the processes."""


@dataclass(frozen=True)
class _Started:
    """A run's process, and the file of what it prints."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    printed: IO[bytes]


def require_independent(planned: Sequence[PlannedRun], jobs: int) -> None:
    """Refuse runs that would slow each other where their time is what they are given.

    Raises:
        UserError: a budget of seconds.
    """
    timed = [one for one in planned if one.config.run.budget.unit == "seconds"]
    if jobs > 1 and timed:
        raise UserError(
            f"--jobs {jobs}: with a budget of time, runs side by side would take it from each "
            "other; give a budget of steps, tokens or images, or leave --jobs out"
        )


def carry_out(
    planned: Sequence[PlannedRun],
    jobs: int,
    told: Callable[[str], None],
    *,
    leave_out: bool = False,
) -> None:
    """Make the runs, so many at a time; each has its share of the cores.

    A run that fails stops the others, which keep what they have; so does an interrupt.

    Args:
        planned: the runs that are not finished.
        jobs: processes at a time.
        told: receives a line whenever a run starts or ends.
        leave_out: go on without a run that diverges.

    Raises:
        UserError: a run failed; its last lines are told.
    """
    waiting, started = list(planned), list[_Started]()
    done = 0
    with tempfile.TemporaryDirectory(prefix="vfunc-compare-") as folder:
        try:
            while waiting or started:
                while waiting and len(started) < jobs:
                    one = waiting.pop(0)
                    started.append(_start(one, jobs, Path(folder)))
                    told(f"started   {one.directory.path}")
                time.sleep(PAUSE)
                for each in [s for s in started if s.process.poll() is not None]:
                    started.remove(each)
                    path = each.run.directory.path
                    reason = reason_diverged(path) if leave_out else None
                    with each.printed:
                        if reason is None:
                            _require_success(each)
                    done += 1
                    ended = "finished" if reason is None else "diverged"
                    told(f"{done} of {len(planned)} {ended}   {path}")
        finally:
            _stop(started)


def _start(one: PlannedRun, jobs: int, folder: Path) -> _Started:
    """The run as its own command line would make it; what it prints goes to a file."""
    path = one.directory.path
    words = ["--name", path.name, "--runs-dir", str(path.parent)]
    if one.state in ("interrupted", "diverged"):
        words = ["--resume", str(path)]
    else:
        config = folder / f"{len(list(folder.iterdir()))}.toml"
        config.write_text(to_toml(one.config), encoding="utf-8")
        words += ["--config", str(config)]
        words += ["--overwrite"] if one.config.command.overwrite else []
    words += ["--leave-checkpoints"] if one.config.command.leave_checkpoints else []
    cores = max(1, (os.cpu_count() or 1) // jobs)
    environment = {"OMP_NUM_THREADS": str(cores), **os.environ, "PYTHONUNBUFFERED": "1"}
    printed = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed when the process has ended)
    process = subprocess.Popen(
        [sys.executable, "-m", "vfunc", "run", *words],
        stdout=printed,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # an interrupt is passed on once, by `_stop`
    )
    return _Started(one, process, printed)


def _require_success(each: _Started) -> None:
    each.printed.seek(0)
    lines = each.printed.read().decode(errors="replace").split("\n")
    if each.process.returncode == 0:
        return
    said = [line.strip() for line in lines if line.strip()]
    wrong = [line for line in said if line.startswith("error: ")]
    if not wrong and each.process.returncode < 0:  # its last line is one of progress
        killed = signal.Signals(-each.process.returncode)
        memory = ", as for want of memory" if killed is signal.SIGKILL else ""
        wrong = [f"it was ended by {killed.name}{memory}; the same command goes on from there"]
    last = (wrong or said or [f"exit code {each.process.returncode}"])[-1]
    raise UserError(f"{each.run.directory.path}: {last.removeprefix('error: ')}")


def _stop(started: Sequence[_Started]) -> None:
    """Ask what still runs to save and stop, and wait for it."""
    for each in started:
        if each.process.poll() is None:
            each.process.send_signal(signal.SIGINT)
    for each in started:
        each.process.wait()
        each.printed.close()
