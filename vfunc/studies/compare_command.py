"""The command `compare`: its options, and what goes to `run`.

It leaves runs/<name>/
  seed0/, seed1/, ...                    a run each, as `run` leaves it
  <setting>/seed0/, ...                  with --vary
  comparison.json, .md, .png             what they come to
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from vfunc.config.command_line import wrapped
from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.processes import require_alone
from vfunc.studies.estimators_on_offer import ESTIMATORS_ON_OFFER
from vfunc.training.run_command_line import PRESETS, run_guarded

DESCRIPTION = """Train every arm once a seed, and compare the arms over the seeds.

It takes every option of %(run)s besides its own (see %(run)s --help), except
--seed and --resume; the option --name names the folder of all runs. Every setting is checked before
the first run starts. The same command, given again, leaves finished runs alone and goes on with an
interrupted one; with --overwrite it starts afresh, and with --dry-run it tells what there is to do.
A run that diverges is left out, with a note; the others are made and compared, and the exit code
is 1.

The comparison gives each arm's mean over seeds with Student's 95 % interval, its difference to the
baseline with the p value of the paired t test (adjusted by Holm's method over all arms and
settings), in how many seeds it is better, how far it goes from baseline to the arm that is told,
and its speed. It is printed and written as comparison.json, comparison.md and comparison.png.

Examples:
  %(prog)s --seeds 0 1 2
  %(prog)s --primary loss --arms baseline,vpretraining,known_wrong
  %(prog)s --vary estimator=first_order,unrolled,implicit --budget 1Mtokens
  %(prog)s --vary value=dot,cosine --vary lr=5e-4,1e-3
  %(prog)s --estimators all --seeds 0 1 2 3 4 5 6 7 --primary loss --jobs 2
  %(prog)s --estimators dot cosine --score runs/my-score
  %(prog)s --from runs/a runs/b"""


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
            help="An option of a run and the values to try, each with every seed; several such "
            "options are combined in all ways.",
            metavar="OPTION=A,B ...",
        ),
    ] = ()
    estimators: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(
            help="Compare value estimators under the same conditions: all, or some of "
            + ", ".join(ESTIMATORS_ON_OFFER)
            + ". Each is an arm of its own in one table; arms that do not depend on it are trained "
            "once a seed. Without --arms these are all that the data allow. With --from: the "
            "runs that are of these estimators, by their names.",
            metavar="NAME ...",
            help_behavior_hint="(default: the one that --estimator names)",
        ),
    ] = None
    jobs: Annotated[
        int | None,
        tyro.conf.arg(
            help="Runs at the same time, each in a process of its own with its share of the cores. "
            "Not with a budget of seconds, in which they would slow each other.",
            metavar="N",
            help_behavior_hint="(default: 1)",
        ),
    ] = None
    score: Annotated[
        str | None,
        tyro.conf.arg(
            help="The folder of a finished counterfactual score of the same problem (see the "
            "command score): its figure at the last horizon stands beside each estimator.",
            metavar="DIR",
            help_behavior_hint="",
        ),
    ] = None
    from_: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(
            name="from",
            help="Run nothing: compare the finished runs in these directories, or up to three "
            "folders below them.",
            metavar="DIR ...",
            help_behavior_hint="",
        ),
    ] = None
    output: Annotated[
        str | None,
        tyro.conf.arg(
            help="Where the comparison is written; what is there is replaced.",
            metavar="DIR",
            help_behavior_hint="(default: the folder of all runs; with --from the one given, or "
            "common to those given)",
        ),
    ] = None


def main(argv: Sequence[str], program: str = "vfunc compare", presets: Path = PRESETS) -> int:
    """Carry out a command line; errors and exit codes are those of `run`.

    Args:
        argv: options.
        program: name of the command, for `--help` and for what it writes.
        presets: folder of the presets.
    """
    # the guard's own line holds --debug alone: the options of a run are parsed once a setting
    debug = [word for word in argv if word in ("--debug", "--no-debug")]
    return run_guarded(lambda _: _compare(argv, program, presets), debug)


def _compare(argv: Sequence[str], program: str, presets: Path) -> None:
    options, rest = options_of(argv, program)
    require_alone("compare")
    # only now: --help and a mistake in an option need not wait for it
    from vfunc.studies.comparison import compare

    called = program.split() if " " in program else ["python", f"experiments/{program}"]
    compare(options, rest, shlex.join([*called, *argv]), presets)


def options_of(
    argv: Sequence[str], program: str = "vfunc compare"
) -> tuple[CompareOptions, list[str]]:
    """This command's own options, and the arguments that are left for `run`.

    Args:
        argv: all of them.
        program: name of the command, for `--help`.

    Raises:
        UserError: seeds that are missing or repeated, nothing after `--vary` or `--from`, or a
            value that an option does not take.
        SystemExit: `--help`.
    """
    described = DESCRIPTION.replace("%(run)s", program.replace("compare", "run"))
    with refused_in_a_line(argv):
        options, rest = tyro.cli(
            CompareOptions,
            args=list(argv),
            prog=program,
            description=wrapped(described.replace("%(prog)s", program)),
            return_unknown_args=True,
        )
    seeds = options.seeds
    if seeds is not None and (not seeds or len(set(seeds)) < len(seeds)):
        raise UserError("--seeds wants at least one seed, and none twice")
    if options.estimators == ():
        raise UserError("--estimators wants something to follow it: all, or names of estimators")
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs {options.jobs}: give 1 or more")
    if options.from_ == () or () in options.vary:
        name, wanted = ("--from", "DIR") if options.from_ == () else ("--vary", "OPTION=A,B")
        raise UserError(f"{name} wants something to follow it: {name} {wanted}")
    return options, rest
