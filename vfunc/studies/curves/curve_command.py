"""The command `curve`: one word says which, and each kind has options of its own.

It leaves, in runs/<name>/ of a sweep, or beside the runs that are read,
  <kind>.json, <kind>.csv                everything that the figure shows, and how it was made
  <kind>.png                             the figure
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from vfunc.config.command_line import wrapped
from vfunc.errors import UserError
from vfunc.processes import require_alone
from vfunc.studies.curves.curve_options import (
    FeedbackSizeOptions,
    PassOptions,
    ProbeOptions,
    SweepOptions,
    TokenOptions,
    TradeOffOptions,
    read_options,
    split_words,
)
from vfunc.training.run_command_line import run_guarded


@dataclass(frozen=True)
class Kind:
    """A kind of curve.

    Attributes:
        module: its module, whose `make(options, rest, command)` carries it out.
        options: what it takes; a sweep takes the options of a run as well.
        purpose: what it shows, in a line.
        description: the same for its `--help`.
    """

    module: str
    options: type
    purpose: str
    description: str


_OF_RUN = """It takes every option of %(run)s besides its own (see %(run)s --help), except
--seed and --resume; --name names the folder of all runs. Arms that %(apart)s are trained
once a seed, in the folder shared. The same command, given again, leaves finished runs alone and
goes on with an interrupted one; with --dry-run it tells what there is to do."""

KINDS = {
    "feedback-size": Kind(
        "feedback_size",
        FeedbackSizeOptions,
        "arms with fewer and more labelled examples",
        f"""Train arms with feedback of several sizes, and draw how well they do.

{_OF_RUN.replace("%(apart)s", "see no feedback (the baseline)")}

Of each size the curve has every arm's mean over seeds, with Student's 95 %% interval, and its
difference to the baseline of the same seed.

Examples:
  %(prog)s --sizes 256 512 1024 --seeds 0 1 2
  %(prog)s --sizes 64 512 --problem random_slips --jobs 2
  %(prog)s --modality vision --sizes 128 512""",
    ),
    "pass-at-k": Kind(
        "pass_curve",
        PassOptions,
        "Pass@k for k = 1 to K, of sampled solutions",
        """Draw Pass@k of finished language runs for k = 1 to K, and the arms' differences.

Solutions to the held-out problems are sampled from every arm's saved learner, or taken from the run
where it has sampled enough itself (--pass-at 1, --samples at least K and at least those given here,
at the same temperature). Pass@k is the unbiased estimate of n samples (Chen et al. 2021); its
intervals (95 %%, Student's) are over seeds where there are several runs, over problems where there
is one, and differences to the baseline are paired. What was sampled is kept: the same command
samples nothing again.

Examples:
  %(prog)s --from runs/x --k 16
  %(prog)s --from runs/c --k 8 --samples 32 --solve-size 100""",
    ),
    "tokens": Kind(
        "token_curve",
        TokenOptions,
        "a metric against tokens (images), and who needs how many",
        """Draw a metric of finished runs against the tokens (images) read, an arm a line.

Of each evaluation of another arm it tells how many tokens the baseline needs to be as good: the
first place at which the baseline, taken as straight lines between its own evaluations, is.

Examples:
  %(prog)s --from runs/x
  %(prog)s --from runs/c --metric accuracy_results""",
    ),
    "trade-off": Kind(
        "trade_off",
        TradeOffOptions,
        "segmentation against depth, by their weights in the feedback",
        f"""Train arms with several weights of segmentation and depth, and draw mIoU against RMSE.

{_OF_RUN.replace("%(apart)s", "see no feedback (the baseline)")} It is for pictures that have
both labels, such as the embedded scenes; --modality vision need not be given.

Points on the Pareto front, which no other is as good as in both, are filled.

Examples:
  %(prog)s --weights 1:0 1:1 0:1 --seeds 0 1 2
  %(prog)s --feedback photos/ --weights 1:8 4:1""",
    ),
    "probe": Kind(
        "saved_probe",
        ProbeOptions,
        "predicted against realised decrease of one step of a saved run",
        """Take one learner step on each of M tasks of a saved run's designer, and draw what was
predicted against what the step brought.

The state is that of the arm's checkpoint: an unfinished run has one, and a finished one that was
made with --leave-checkpoints. The points are those of the run's own probe there. A finished run on
text without one is probed as its files have it, learner and designer alone: then only the small
step is taken, along the gradient, since the optimizer's moments are gone. r is Pearson's
correlation over the tasks, with a bootstrap interval; of several runs, their mean.

Examples:
  %(prog)s --from runs/x
  %(prog)s --from runs/c --batches 128""",
    ),
}


def main(argv: Sequence[str], program: str = "vfunc curve") -> int:
    """Carry out a command line; errors and exit codes are those of `run`.

    Args:
        argv: the kind of curve, and its options.
        program: name of the command, for `--help` and for what it writes.
    """
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        print(_help(program))
        return 0
    debug = [word for word in words if word in ("--debug", "--no-debug")]
    return run_guarded(lambda _: _curve(words, program), debug)


def _curve(words: Sequence[str], program: str) -> None:
    options, rest, module = asked_of(words, program)
    require_alone("curve")
    called = program.split() if " " in program else ["python", f"experiments/{program}"]
    # only now: --help and a mistake in an option need not wait for it
    make: Callable[[Any, Sequence[str], str], None] = import_module(
        f"vfunc.studies.curves.{module}"
    ).make
    make(options, rest, shlex.join([*called, *words]))


def asked_of(words: Sequence[str], program: str = "vfunc curve") -> tuple[Any, list[str], str]:
    """A kind's own options, the arguments that are left for `run`, and its module's name.

    Args:
        words: the kind, and its options.
        program: name of the command, for `--help`.

    Raises:
        UserError: there is no such kind, or see `read_options`.
        SystemExit: `--help`.
    """
    name, *given = words
    if name not in KINDS:
        near = difflib.get_close_matches(name, KINDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(KINDS)}"
        raise UserError(f"{program} has no {name!r}; {hint} ({program} --help)")
    kind = KINDS[name]
    own, rest = given, list[str]()
    if issubclass(kind.options, SweepOptions):
        own, rest = split_words(given, kind.options)
    described = kind.description.replace("%(run)s", program.replace("curve", "run"))
    described = described.replace("%(prog)s", f"{program} {name}").replace("%%", "%")
    options = read_options(
        own, kind.options, program=f"{program} {name}", description=wrapped(described)
    )
    return options, rest, kind.module


def _help(program: str) -> str:
    rows = "\n".join(f"  {name:15}{kind.purpose}" for name, kind in KINDS.items())
    return f"""usage: {program} KIND [OPTIONS]

Curves of new runs (feedback-size, trade-off) or of finished ones, each as data (.json, .csv), a
figure (.png) and a small table.

kinds:
{rows}

Examples:
  {program} feedback-size --sizes 256 1024 --seeds 0 1 2
  {program} tokens --from runs/x

`{program} KIND --help` tells a kind's options."""
