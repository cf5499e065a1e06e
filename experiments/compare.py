"""Repeat the main job over seeds and settings, and compare: `python experiments/compare.py --help`.

runs/<name>/
  seed0/, seed1/, ...                    a run each, as experiments/run.py leaves it
  <setting>/seed0/, ...                  with --vary
  comparison.json, .md, .png             what they come to
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from vfunc.config.command_line import PRESETS, given_on_command_line, run_guarded
from vfunc.config.resolve import flag
from vfunc.errors import UserError
from vfunc.studies.comparison_files import primary_of, write_comparison
from vfunc.studies.finished_runs import FoundRun, find_runs, read_run
from vfunc.studies.repetition import PlannedRun, check, plan
from vfunc.training.run import run

DESCRIPTION = """Train every arm once a seed, and compare the arms over the seeds.

It takes every option of run.py besides its own (see run.py --help), except --seed and --resume; the
option --name names the folder of all runs. Every setting is checked before the first run starts.
The same command, given again, leaves finished runs alone and goes on with an interrupted one;
with --overwrite it starts afresh, and with --dry-run it tells what there is to do.

The comparison gives each arm's mean over seeds with Student's 95 % interval, its difference to the
baseline with the p value of the paired t test (adjusted by Holm's method over all arms and
settings), in how many seeds it is better, how far it goes from baseline to known_wrong, and its
speed. It is printed and written as comparison.json, comparison.md and comparison.png.

Examples:
  %(prog)s --seeds 0 1 2
  %(prog)s --primary loss --arms baseline,vpretraining,known_wrong
  %(prog)s --vary estimator=first_order,unrolled,implicit --budget 1Mtokens
  %(prog)s --vary value=dot,cosine --vary lr=5e-4,1e-3 --problem random_slips
  %(prog)s --from runs/a runs/b"""

DEFAULT_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class CompareOptions:
    """What to repeat, and how to compare."""

    seeds: Annotated[
        tuple[int, ...] | None,
        tyro.conf.arg(
            help="A run each.", metavar="N ...", help_behavior_hint="(default: 0 1 2 3 4)"
        ),
    ] = None
    primary: Annotated[
        str | None,
        tyro.conf.arg(
            help="The metric that the comparison is about, as metrics.json names it; the others "
            "are secondary.",
            metavar="NAME",
            help_behavior_hint="(default: pass_at_1 for language, where there are problems to "
            "solve; the last in metrics.json for vision; else loss)",
        ),
    ] = None
    vary: Annotated[
        tyro.conf.UseAppendAction[tuple[tuple[str, ...], ...]],
        tyro.conf.arg(
            help="An option of run.py and the values to try, each with every seed; several such "
            "options are combined in all ways.",
            metavar="OPTION=A,B ...",
        ),
    ] = ()
    from_: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(
            name="from",
            help="Run nothing: compare the finished runs in these directories.",
            metavar="DIR ...",
            help_behavior_hint="",
        ),
    ] = None
    output: Annotated[
        str | None,
        tyro.conf.arg(
            help="Where the comparison is written; what is there is replaced.",
            metavar="DIR",
            help_behavior_hint="(default: the folder of all runs)",
        ),
    ] = None


def main(argv: Sequence[str], presets: Path = PRESETS) -> int:
    """Carry out a command line; errors and exit codes are those of run.py."""
    # the guard's own line holds --debug alone: the options of a run are parsed once a setting
    debug = [word for word in argv if word in ("--debug", "--no-debug")]
    return run_guarded(lambda _: compare(argv, presets), debug)


def compare(argv: Sequence[str], presets: Path = PRESETS) -> None:
    """Make the runs that are missing, or find those that are there, and compare them.

    Raises:
        UserError: the user's mistake; nothing has been run, unless the data turn out to hold
            nothing that the primary metric can be measured on.
    """
    options, rest = options_of(argv)
    console = Console(width=None if sys.stdout.isatty() else 100)
    if options.from_ is not None:
        folder, found = _existing(options, rest)
    else:
        varied = [text for group in options.vary for text in group]
        folder, planned = plan(options.seeds or DEFAULT_SEEDS, varied, rest, presets)
        check(planned, options.primary)
        if planned[0].config.command.dry_run:
            for one in planned:
                console.print(
                    f"{one.state:12}{one.directory.path}", highlight=False, soft_wrap=True
                )
            return
        found = _carried_out(planned, options, console)
    command = shlex.join(["python", "experiments/compare.py", *argv])
    folder = Path(options.output) if options.output else folder
    write_comparison(found, primary_of(options.primary, found), command, folder, console)


def options_of(argv: Sequence[str]) -> tuple[CompareOptions, list[str]]:
    """This command's own options, and the arguments that are left for run.py.

    Raises:
        UserError: seeds that are missing or repeated, or nothing after `--vary` or `--from`.
        SystemExit: `--help`, or a value that tyro refuses.
    """
    program = Path(sys.argv[0]).name
    options, rest = tyro.cli(
        CompareOptions,
        args=list(argv),
        prog=program,
        description=DESCRIPTION.replace("%(prog)s", program),
        return_unknown_args=True,
    )
    seeds = options.seeds
    if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
        raise UserError("--seeds wants at least one seed, and none twice")
    if options.from_ == () or () in options.vary:
        name, wanted = ("--from", "DIR") if options.from_ == () else ("--vary", "OPTION=A,B")
        raise UserError(f"{name} wants something to follow it: {name} {wanted}")
    return options, rest


def _carried_out(
    planned: Sequence[PlannedRun], options: CompareOptions, console: Console
) -> list[FoundRun]:
    """Make the runs that are not finished, one after another."""
    found = []
    for number, one in enumerate(planned, start=1):
        state, path = one.state, one.directory.path
        console.print(f"\nrun {number} of {len(planned)}  {path}", style="bold", soft_wrap=True)
        if state == "finished":
            console.print("finished already")
        else:
            resume = str(path) if state == "interrupted" else None
            command = replace(one.config.command, resume=resume)
            try:
                run(replace(one.config, command=command))
            except KeyboardInterrupt:
                again = " without --overwrite" if command.overwrite else ""
                console.print(f"\nthe same command{again} goes on from here")
                raise
        found.append(read_run(path, one.setting))
        # better now than after all runs
        primary_of(options.primary, found)
    return found


def _existing(options: CompareOptions, rest: Sequence[str]) -> tuple[Path, list[FoundRun]]:
    """The finished runs that `--from` names, and their closest common folder."""
    others = [flag(name) for name in given_on_command_line(rest) if name != "debug"]
    others += [flag(name) for name in ("seeds", "vary") if getattr(options, name)]
    if others:
        raise UserError(f"--from runs nothing, and {', '.join(others)} would do nothing with it")
    found = find_runs([Path(path) for path in options.from_ or ()])
    folder = os.path.commonpath([one.path.resolve() for one in found])
    return Path(os.path.relpath(folder)), found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
