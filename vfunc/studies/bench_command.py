"""The command `bench`: cost and fidelity of the estimators at one state, as a table."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.table import Table

from vfunc.config.command_line import wrapped
from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.printable import SafeConsole
from vfunc.training.run_command_line import parse, run_guarded

if TYPE_CHECKING:
    from vfunc.studies.bench import Row

DESCRIPTION = """Ask every estimator the same question: what does it cost, how near does it come?

It takes the options of %(run)s that are of data, learner, optimizer and designer (see %(run)s
--help). The learner takes --steps ordinary steps; then each estimator is asked for the value of the
next one.

Time and peak memory are ratios to the learner's own forward and backward on the same batch (median,
least and most of paired repeats); memory counts tensors. Cosine compares the designer's gradient to
that of the decrease which the learner's real next step brings (unrolled, one step), value the
predicted decrease to the realised one (negative where one is a rise; empty for several steps).

Examples:
  %(prog)s
  %(prog)s --only first_order --align last:1
  %(prog)s --problem random_slips --batch-size 8 --steps 100"""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure."""

    steps: Annotated[int, tyro.conf.arg(help="The learner's steps before the measurement.")] = 50
    repeats: Annotated[int, tyro.conf.arg(help="Paired repeats of each time.")] = 5
    only: Annotated[
        str | None,
        tyro.conf.arg(
            help="Estimators whose label starts with this, such as 'unrolled'.",
            metavar="TEXT",
            help_behavior_hint="(default: all)",
        ),
    ] = None


def main(argv: Sequence[str], program: str = "vfunc bench") -> int:
    """Carry out a command line; errors and exit codes are those of `run`.

    Args:
        argv: options.
        program: name of the command, for `--help`.
    """
    debug = [word for word in argv if word in ("--debug", "--no-debug")]
    return run_guarded(lambda _: _measure(argv, program), debug)


def _measure(argv: Sequence[str], program: str) -> None:
    described = DESCRIPTION.replace("%(run)s", program.replace("bench", "run"))
    with refused_in_a_line(argv):
        options, rest = tyro.cli(
            BenchOptions,
            args=list(argv),
            prog=program,
            description=wrapped(described.replace("%(prog)s", program)),
            return_unknown_args=True,
        )
    # only now: --help need not wait for it
    from vfunc.studies.bench import CANDIDATES, bench
    from vfunc.training.assemble import assemble

    if options.steps < 0 or options.repeats < 1:
        raise UserError("--steps must be at least 0, and --repeats at least 1")
    chosen = [c for c in CANDIDATES if c.label.startswith(options.only or "")]
    if not chosen:
        known = ", ".join(dict.fromkeys(c.name for c in CANDIDATES))
        raise UserError(f"--only {options.only!r} matches none; there are {known}")
    assembled = assemble(parse(rest))
    rows = bench(assembled, chosen, options.steps, options.repeats)
    console = SafeConsole(width=None if sys.stdout.isatty() else 130)
    console.print(table(rows))


def table(rows: Sequence[Row]) -> Table:
    """The measurements, a row an estimator."""
    drawn = Table(box=None, header_style="bold")
    for name in ("estimator", "engine", "passes", "time", "memory", "cosine", "value"):
        right = name in ("time", "memory", "cosine", "value")
        drawn.add_column(name, justify="right" if right else "left")
    for row in rows:
        if row.time is None:
            drawn.add_row(row.label, "", row.passes)
            continue
        drawn.add_row(
            row.label,
            row.engine,
            row.passes,
            "{:.2f} ({:.2f}-{:.2f})".format(*row.time),
            f"{row.memory:.2f}",
            "" if row.cosine is None else f"{row.cosine:.3f}",
            "" if row.value is None else f"{row.value:.2f}",
        )
    return drawn
