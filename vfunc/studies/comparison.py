"""Makes the runs that a comparison lacks, and compares them all."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from vfunc.config.known import flag
from vfunc.errors import NonFiniteError, UserError
from vfunc.printable import SafeConsole
from vfunc.studies.compare_command import CompareOptions
from vfunc.studies.comparison_files import primary_of, write_comparison
from vfunc.studies.estimators_on_offer import named_estimators
from vfunc.studies.finished_runs import FoundRun, find_runs, read_run
from vfunc.studies.repeated.diverged import (
    diverged_among,
    raise_if_any,
    reason_diverged,
    told_left_out,
)
from vfunc.studies.repeated.places import require_output, run_places
from vfunc.studies.repetition import PlannedRun, check, plan, told_to_give_way
from vfunc.studies.score.scored_estimators import require_score
from vfunc.studies.side_by_side import carry_out, require_independent
from vfunc.training.run import run
from vfunc.training.run_command_line import PRESETS, given_on_command_line

DEFAULT_SEEDS = (0, 1, 2, 3, 4)


def compare(
    options: CompareOptions, rest: Sequence[str], command: str, presets: Path = PRESETS
) -> None:
    """Make the runs that are missing, or find those that are there, and compare them.

    Args:
        options: the runs to repeat, and the comparison.
        rest: arguments of `run`, the same for all runs.
        command: the whole command line, for the comparison's files.
        presets: folder of the presets.

    Raises:
        UserError: the user's mistake; nothing has been run, unless the data turn out to hold
            nothing that the primary metric can be measured on.
        NonFiniteError: runs diverged; the others have been compared without them.
    """
    console = SafeConsole(width=None if sys.stdout.isatty() else 100)
    require_output(options.output)
    if options.from_ is not None:
        folder, found, diverged = _existing(options, rest)
        notes = []
    else:
        varied = [text for group in options.vary for text in group]
        named = named_estimators(options.estimators) if options.estimators else ()
        folder, planned = plan(options.seeds or DEFAULT_SEEDS, varied, rest, presets, named)
        notes = told_to_give_way(planned)
        require_independent(planned, options.jobs or 1)
        check(planned, options.primary)
        if options.score is not None:  # better now than after all runs
            for one in planned:
                require_score(Path(options.score), one.config.options)
        for note in notes:
            console.print(note, highlight=False)
        if planned[0].config.command.dry_run:
            for one in planned:
                console.print(
                    f"{one.state:12}{one.directory.path}", highlight=False, soft_wrap=True
                )
            return
        found = carried_out(
            planned,
            options.jobs or 1,
            console,
            # better now than after all runs
            lambda found: primary_of(options.primary, found),
            leave_out=True,
        )
        diverged = diverged_among([one.directory.path for one in planned])
        if not found:
            raise_if_any(diverged, len(planned))
    folder = Path(options.output) if options.output else folder
    score = None if options.score is None else Path(options.score)
    primary = primary_of(options.primary, found)
    notes += told_left_out(diverged)
    write_comparison(found, primary, command, folder, console, score, notes)
    raise_if_any(diverged, len(found) + len(diverged))


def carried_out(
    planned: Sequence[PlannedRun],
    jobs: int,
    console: Console,
    look: Callable[[Sequence[FoundRun]], object] = lambda found: None,
    *,
    leave_out: bool = False,
) -> list[FoundRun]:
    """Make the runs that are not finished, and read them all.

    Args:
        planned: the runs.
        jobs: runs at a time; with one they are made here, one after another.
        console: the console to print on.
        look: called after each run with those there are, to refuse what the next would not mend.
        leave_out: go on without a run that diverges, and leave alone one that has diverged; if not,
            such a run is gone on with, and stops the others.

    Raises:
        UserError: a run failed, or `look` raised it.
        NonFiniteError: a run diverged, and is not left out.
        Interrupted: a signal asked to stop; the state of the run under way is on disk.
    """
    found: list[FoundRun] = []
    if jobs > 1:
        done = ("finished", "diverged") if leave_out else ("finished",)
        left = [one for one in planned if one.state not in done]
        console.print(f"\n{len(planned)} runs, {len(left)} to be made, {jobs} at a time")
        try:
            told = functools.partial(console.print, soft_wrap=True)
            carry_out(left, jobs, told, leave_out=leave_out)
        except KeyboardInterrupt:
            _tell_to_go_on(planned[0], console)
            raise
        planned = [replace(one, config=one.config.changed(overwrite=False)) for one in planned]
    for number, one in enumerate(planned, start=1):
        state, path = one.state, one.directory.path
        console.print(f"\nrun {number} of {len(planned)}  {path}", style="bold", soft_wrap=True)
        if state == "finished":
            console.print("finished already")
        elif state == "diverged" and leave_out:
            console.print(f"diverged already: {reason_diverged(path)}", soft_wrap=True)
            continue
        else:
            resume = str(path) if state in ("interrupted", "diverged") else None
            try:
                run(one.config.changed(resume=resume))
            except NonFiniteError as error:
                if not leave_out or reason_diverged(path) is None:
                    raise
                console.print(f"diverged: {error}", soft_wrap=True)
                continue
            except KeyboardInterrupt:
                _tell_to_go_on(one, console)
                raise
        found.append(read_run(path, one.setting, one.estimator))
        look(found)
    return found


def _tell_to_go_on(one: PlannedRun, console: Console) -> None:
    again = " without --overwrite" if one.config.command.overwrite else ""
    with contextlib.suppress(OSError):  # the terminal may be gone
        console.print(f"\nthe same command{again} goes on from here")


def _existing(
    options: CompareOptions, rest: Sequence[str]
) -> tuple[Path, list[FoundRun], dict[Path, str]]:
    """The finished runs that `--from` names, their closest common folder, and what diverged."""
    others = [flag(name) for name in given_on_command_line(rest) if name != "debug"]
    own = ("seeds", "vary", "jobs")
    others += [flag(name) for name in own if getattr(options, name)]
    if others:
        raise UserError(f"--from runs nothing, and {', '.join(others)} would do nothing with it")
    named = named_estimators(options.estimators) if options.estimators else ()
    paths = [Path(path) for path in options.from_ or ()]
    places = run_places(paths)
    diverged = diverged_among(places)
    if len(diverged) == len(places):
        raise_if_any(diverged, len(places))
    found = find_runs(paths, named, diverged)
    # the folder that was given, however deep its runs are
    folder = os.path.commonpath([path.resolve() for path in paths])
    return Path(os.path.relpath(folder)), found, diverged
