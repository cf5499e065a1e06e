"""The command `bench`: what estimators cost and give, and what designing tasks costs training."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.table import Table

from vfunc.config.command_line import wrapped
from vfunc.config.known import flag
from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.printable import SafeConsole
from vfunc.processes import require_alone
from vfunc.training.build.configuration import COMMAND, catalogue_of_config
from vfunc.training.run_command_line import given_on_command_line, parse, run_guarded

if TYPE_CHECKING:
    from vfunc.studies.bench import Row
    from vfunc.studies.fidelity import Fidelity

DESCRIPTION = """Measure what value gradients cost, and how near they come.

--part estimators asks every estimator the same question at one state of a run. It takes
the options of %(run)s that are of data, learner, optimizer and designer (see %(run)s --help). The
learner takes --steps ordinary steps; then each estimator is asked for the value of the next one.

Time and peak memory are ratios to the learner's own forward and backward on the same batch (median,
least and most of paired repeats); memory counts tensors. Cosine compares the designer's gradient to
that of the decrease which the learner's real next step brings (unrolled, one step), value the
predicted decrease to the realised one (negative where one is a rise; empty for several steps).

--part fidelity asks the run's estimator about parts of the micro-batch and of the feedback, on
--repeats micro-batches with a feedback batch each, and about the whole: the cosine of the two
gradients in the designer (median, least and most), how the two objectives correlate from one
micro-batch to the next, and the time over that of the whole. It takes the options of a run, too.
A part of which nothing is predicted has no gradient, and is in no cosine.

--part training takes blocks of optimizer steps with and without a designer in turns, one designer
update a block, on random weights and tokens of a --shape: tokens a second, peak memory and FLOPs,
over the baseline's; the floor of the FLOPs; and the time of each piece. --part engines asks every
engine, unrolled and implicit for one estimate at the same --shape, over a plain learner step: time,
FLOPs, FLOPs over their floor, and peak memory. --part peers asks other packages (pip install
'vfunc[peers]') and this one for the gradient through K simulated steps of a small network, over
plain double backward: time, FLOPs, memory and error. --part scaling measures nothing: it prints
what formulas say of 0.5B, 7B and 70B parameters on 1 to 256 GPUs. These take no options of a run.

Examples:
  %(prog)s
  %(prog)s --part fidelity --repeats 8
  %(prog)s --part training --output bench
  %(prog)s --part engines --shape tiny
  %(prog)s --part peers --quick
  %(prog)s --only first_order --align last:1
  %(prog)s --problem random_slips --batch-size 8 --steps 100"""


@dataclass(frozen=True)
class BenchOptions:
    """What to measure."""

    part: Annotated[
        Literal["estimators", "fidelity", "engines", "training", "peers", "scaling"],
        tyro.conf.arg(help="What is measured."),
    ] = "estimators"
    shape: Annotated[
        Literal["tiny", "scaled", "proportioned", "qwen2.5-0.5b"],
        tyro.conf.arg(
            help="Sizes of learner, batches and designer, for --part engines and training: for a "
            "look that it works; Qwen2 scaled down to 4.9M parameters; the same with the shares of "
            "head and designer that Qwen2.5-0.5B has; Qwen2.5-0.5B. Of --part "
            "peers: 3 layers of 8, or 12 of 512.",
        ),
    ] = "scaled"
    quick: Annotated[
        bool,
        tyro.conf.arg(
            help="No times, for --part engines, training and peers: counts alone, of the tiny "
            "shape."
        ),
    ] = False
    output: Annotated[
        str | None,
        tyro.conf.arg(
            help="Folder for bench.json and bench.md, for --part engines, training, peers and "
            "scaling.",
            metavar="DIR",
            help_behavior_hint="(default: none)",
        ),
    ] = None
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
    require_alone("bench")
    if options.steps < 0 or options.repeats < 1:
        raise UserError("--steps must be at least 0, and --repeats at least 1")
    shaped = options.part in (*_SHAPED, "scaling")
    if shaped and rest:
        raise UserError(f"--part {options.part} has a shape of its own, and no {rest[0]}")
    for names, parts in _FOR.items():
        if options.part not in parts:
            *most, last = parts
            these = f"{', '.join(most)} and {last}" if most else last
            _refuse_idle(options, names, f"it is for --part {these}")
    if shaped:
        if options.quick:
            _refuse_idle(options, ("shape", "repeats"), "--quick takes no times, of the tiny shape")
        _measure_shaped(options)
        return
    # only now: --help need not wait for it
    from vfunc.studies.bench import CANDIDATES, bench, warm
    from vfunc.training.assemble import assemble
    from vfunc.training.start import start_arm

    console = SafeConsole(width=None if sys.stdout.isatty() else 130)
    if options.part == "fidelity":
        from vfunc.studies.fidelity import fidelity

        refuse_idle_of_run(rest)
        run = warm(start_arm("vpretraining", assemble(parse(rest))), options.steps)
        assert run.estimator is not None
        console.print(fidelity_table(fidelity(run, run.estimator, options.repeats)))
        return
    chosen = [c for c in CANDIDATES if c.label.startswith(options.only or "")]
    if not chosen:
        known = ", ".join(dict.fromkeys(c.name for c in CANDIDATES))
        raise UserError(f"--only {options.only!r} matches none; there are {known}")
    refuse_idle_of_run(rest, all_estimators=True)
    assembled = assemble(parse(rest))
    rows = bench(assembled, chosen, options.steps, options.repeats)
    console.print(table(rows))


_SHAPED = ("engines", "training", "peers")
"""Parts that make what they measure themselves."""

_FOR = {
    ("only",): ("estimators",),
    ("steps",): ("estimators", "fidelity"),
    ("repeats",): ("estimators", "fidelity", *_SHAPED),
    ("shape", "quick"): _SHAPED,
    ("output",): (*_SHAPED, "scaling"),
}
"""Which parts some options are for."""


def _refuse_idle(options: BenchOptions, names: Sequence[str], why: str) -> None:
    """Refuse options that are given and do nothing."""
    for name in names:
        if getattr(options, name) != getattr(BenchOptions(), name):
            raise UserError(f"--{name} does nothing here: {why}")


def refuse_idle_of_run(words: Sequence[str], *, all_estimators: bool = False) -> None:
    """Refuse options of a run that are given and do nothing where one state is measured.

    Args:
        words: options of a run.
        all_estimators: whether those of the estimator do nothing either.

    Raises:
        UserError: there is one, or see `given_on_command_line`.
    """
    given = given_on_command_line(words)
    for name in given:
        if name in _OF_TRAINING:
            raise UserError(f"{flag(name)} does nothing here: no run is made or gone on with")
    if not all_estimators:
        return
    known = catalogue_of_config(parse(words))
    for name in given:
        if name == "estimator" or known[name].opened:
            raise UserError(
                f"{flag(name)} does nothing here: estimators are measured with options of their "
                "own, and --only chooses among them"
            )


_OF_TRAINING = {*COMMAND, "arms", "eval_every", "save_every", "probe_batches"} - {
    "preset",
    "config",
    "debug",
}
"""Options of a run that say what it trains, keeps and looks at on its way."""


def _measure_shaped(options: BenchOptions) -> None:
    import torch

    from vfunc.studies.curves.curve_files import require_writable
    from vfunc.studies.shaped_parts import PARTS, as_json

    name = "tiny" if options.quick else options.shape
    repeats = 0 if options.quick else options.repeats
    part = PARTS[options.part]
    if name not in part.shapes:
        raise UserError(f"--part {options.part} has no --shape {name}: {', '.join(part.shapes)}")
    torch.set_num_threads(1)
    folder = None if options.output is None else Path(options.output)
    if folder is not None:
        require_writable(options.output)  # refused before it is measured
        folder.mkdir(parents=True, exist_ok=True)
    costs = part.measure(name, repeats)
    text = part.markdown(name, costs)
    SafeConsole().print(text, soft_wrap=True, markup=False, highlight=False)
    if folder is not None:
        (folder / "bench.md").write_text(text, encoding="utf-8")
        (folder / "bench.json").write_text(as_json(name, costs), encoding="utf-8")


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


def fidelity_table(rows: Sequence[Fidelity]) -> Table:
    """What parts of a batch lose, a row a part."""
    drawn = Table(box=None, header_style="bold")
    for name in ("an estimate on", "cosine", "correlation", "time"):
        drawn.add_column(name, justify="left" if name == "an estimate on" else "right")
    for row in rows:
        said = "" if row.correlation is None else f"{row.correlation:.2f}"
        cosine = "no gradient" if row.cosine is None else str(row.cosine)
        if row.cosine is not None and row.undirected:
            cosine += f", {row.undirected} without gradient"
        drawn.add_row(row.part, cosine, said, str(row.time))
    return drawn
