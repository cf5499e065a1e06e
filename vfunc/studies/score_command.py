"""The command `score`: the counterfactual score of value estimators.

It leaves runs/<name>/
  state-<fraction>.json                  what was measured at each state
  <option>=<value>/state-....json        with --sweep
  score.json, .md, .png                  what it comes to
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from vfunc.config.command_line import last_value, refuse_repeated, wrapped
from vfunc.config.known import flag
from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.processes import require_alone
from vfunc.training.run_command_line import PRESETS, run_guarded

DESCRIPTION = """Score value estimators by what doing a task brings.

At several states of a run, tasks are drawn (soft targets at several distances from the text as it
is; masks of views, at several from none), every estimator predicts what each is worth, and each is
done: live learner steps on the stream's next batches, from the same state and the same random
draws. A task's effect is what the loss falls more than on the text (or pictures) as it is: on the
feedback that the estimators see, on as much other feedback, and on held-out data; of pictures with
heads that are fitted anew. An estimator's score at a horizon is the rank correlation of its
predictions and the effects, beside Pearson's, the slope, what picking its best task loses, and its
cost over a plain learner step; intervals are the bootstrap's over states and tasks.

It takes the options of %(run)s that are of data, learner, optimizer, designer and estimator (see
%(run)s --help); --estimator is the one that trains the designer on the way. The same command, given
again, measures what is missing and writes the tables anew.

--preset quick is for two cores and five minutes: batches of 8, 16 tasks, horizons of 1, 4 and 16
steps. Of pictures it has batches of 16, and takes a quarter of an hour with --only first_order.
--preset full is what it does without a preset. Any other preset is one of %(run)s.

Examples:
  %(prog)s --preset quick
  %(prog)s --preset quick --problem random_slips
  %(prog)s --preset quick --modality vision --only first_order
  %(prog)s --only first_order --sweep feedback_batch_size 8 32
  %(prog)s --jobs 2 --states 0.1 0.5"""

QUICK_RUN: Mapping[str, Mapping[str, Any]] = {
    "language": {
        "batch_size": 8,
        "feedback_batch_size": 16,
        "eval_size": 64,
        "budget": "100steps",
    },
    "vision": {
        "batch_size": 16,
        "meta_batch_size": 16,
        "head_size": 128,
        "feedback_bank": 128,
        "eval_size": 128,
        "budget": "60steps",
    },
}
"""Options of the run that --preset quick gives, where neither --config nor the line does."""


@dataclass(frozen=True)
class ScoreOptions:
    """What is scored."""

    states: Annotated[
        tuple[float, ...],
        tyro.conf.arg(help="Fractions of the budget at which there is a state.", metavar="F ..."),
    ] = (0.1, 0.4, 0.7)
    tasks: Annotated[int, tyro.conf.arg(help="Tasks at each state.")] = 64
    horizons: Annotated[
        tuple[int, ...],
        tyro.conf.arg(help="Learner steps after which effects are measured.", metavar="H ..."),
    ] = (1, 4, 16, 64)
    task_by_task: Annotated[
        int,
        tyro.conf.arg(
            help="Ask an estimator for each task's value where an estimate takes about so many "
            "learner steps or fewer (implicit counts as 32); its slope is read in any case."
        ),
    ] = 64
    directions: Annotated[
        int,
        tyro.conf.arg(help="Tasks along which metasmoothness is measured, at most; 0 for none."),
    ] = 4
    arm: Annotated[
        Literal["baseline", "vpretraining"],
        tyro.conf.arg(help="The arm whose training reaches the states."),
    ] = "vpretraining"
    only: Annotated[
        str | None,
        tyro.conf.arg(
            help="Estimators whose label starts with this, such as 'unrolled'.",
            metavar="TEXT",
            help_behavior_hint="(default: all)",
        ),
    ] = None
    also: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            help="Estimators of your own, package.module:Name, with their default options.",
            metavar="NAME ...",
            help_behavior_hint="(default: none)",
        ),
    ] = ()
    sweep: Annotated[
        tuple[str, ...] | None,
        tyro.conf.arg(
            help="An option of a run and the values to try: how the score moves with it.",
            metavar="OPTION VALUE ...",
            help_behavior_hint="(default: none)",
        ),
    ] = None
    resamples: Annotated[int, tyro.conf.arg(help="Bootstrap draws of the intervals.")] = 1000
    jobs: Annotated[int, tyro.conf.arg(help="States that are measured side by side.")] = 1
    run: Annotated[Mapping[str, Any], tyro.conf.Fixed, tyro.conf.Suppress] = field(
        default_factory=dict
    )
    """By modality, options of the run that a preset of the score gives, below a file's and the
    line's."""


SCORE_PRESETS: Mapping[str, ScoreOptions] = {
    "full": ScoreOptions(),
    "quick": ScoreOptions(
        tasks=16,
        horizons=(1, 4, 16),
        task_by_task=4,
        directions=1,
        jobs=2,
        run=QUICK_RUN,
    ),
}


def main(argv: Sequence[str], program: str = "vfunc score", presets: Path = PRESETS) -> int:
    """Carry out a command line; errors and exit codes are those of `run`.

    Args:
        argv: options.
        program: name of the command, for `--help` and for what it writes.
        presets: folder of the presets of a run.
    """
    debug = [word for word in argv if word in ("--debug", "--no-debug")]
    return run_guarded(lambda _: _score(argv, program, presets), debug)


def _score(argv: Sequence[str], program: str, presets: Path) -> None:
    options, rest = options_of(argv, program)
    require_alone("score")
    # only now: --help and a mistake in an option need not wait for it
    from vfunc.studies.score.study import score

    called = program.split() if " " in program else ["python", f"experiments/{program}"]
    score(options, rest, shlex.join([*called, *argv]), presets)


def options_of(argv: Sequence[str], program: str = "vfunc score") -> tuple[ScoreOptions, list[str]]:
    """This command's own options, and the arguments that are left for `run`.

    Args:
        argv: all of them.
        program: name of the command, for `--help`.

    Raises:
        UserError: a value that an option does not take.
        SystemExit: `--help`.
    """
    refuse_repeated(argv, "preset", "config")
    preset = last_value(argv, "preset")
    described = DESCRIPTION.replace("%(run)s", program.replace("score", "run"))
    with refused_in_a_line(argv):
        options, rest = tyro.cli(
            ScoreOptions,
            args=list(argv),
            prog=program,
            description=wrapped(described.replace("%(prog)s", program)),
            default=SCORE_PRESETS.get(preset or "", ScoreOptions()),
            return_unknown_args=True,
        )
    if preset in SCORE_PRESETS:
        rest = _without_preset(rest)
    _check(options)
    return replace(options, horizons=tuple(sorted(options.horizons))), rest


def _without_preset(words: Sequence[str]) -> list[str]:
    """The words without --preset and its value."""
    kept: list[str] = []
    skip = False
    for word in words:
        if skip:
            skip = False
        elif word == "--preset":
            skip = True
        elif not word.startswith("--preset="):
            kept.append(word)
    return kept


def _check(options: ScoreOptions) -> None:
    states, horizons = options.states, options.horizons
    if not states or len(set(states)) < len(states) or not all(0 <= f < 1 for f in states):
        raise UserError("--states wants fractions of the budget from 0 to below 1, none twice")
    if not horizons or len(set(horizons)) < len(horizons) or min(horizons) < 1:
        raise UserError("--horizons wants numbers of steps of at least 1, none twice")
    least = {"tasks": 3, "task_by_task": 0, "directions": 0, "resamples": 1, "jobs": 1}
    for name, smallest in least.items():
        if getattr(options, name) < smallest:
            raise UserError(f"{flag(name)} must be at least {smallest}")
    if options.sweep is not None and len(options.sweep) < 3:
        raise UserError(
            "--sweep wants an option of a run and two values or more: "
            "--sweep feedback_batch_size 8 32 128"
        )
