"""The console command `vfunc`, and what the scripts of experiments/ start.

What a command needs is imported only when it is called, so that `vfunc --help` is quick, and a
package that is missing becomes one line.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from importlib import import_module, metadata

from vfunc.config.stand_in import told_without_torch
from vfunc.extras import MissingExtraError, needs
from vfunc.printable import one_line

COMMANDS = {
    "run": ("vfunc.training.command", "train with and without learned tasks, and compare"),
    "foresee": (
        "vfunc.training.foretelling.foresee_command",
        "tell before training whether feedback is large and similar enough",
    ),
    "compare": ("vfunc.studies.compare_command", "repeat run over seeds and settings"),
    "bench": ("vfunc.studies.bench_command", "measure cost and fidelity of the estimators"),
    "report": (
        "vfunc.report.page.report_command",
        "show a run, or several, as a page",
    ),
    "evaluate": (
        "vfunc.training.evaluating.evaluate_command",
        "ask a saved learner benchmarks, without training",
    ),
    "score": ("vfunc.studies.score_command", "score the estimators by what doing a task brings"),
    "curve": (
        "vfunc.studies.curves.curve_command",
        "draw a curve: feedback size, Pass@k, tokens, trade-off, one-step probe",
    ),
    "make-careless": (
        "vfunc.language.careless.careless_command",
        "make a stream of worked solutions of which a share is wrong",
    ),
    "make-crawl": (
        "vfunc.language.crawl.crawl_command",
        "make a stream of which a part is useful, and the rest what a crawl brings",
    ),
    "decontaminate": (
        "vfunc.language.decontamination.decontaminate_command",
        "remove texts that hold test examples from a stream",
    ),
}
"""Module and purpose of each command; the module's `main(argv, program)` carries it out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Carry out `vfunc COMMAND ...`.

    Args:
        argv: command and options; None takes the process's own.

    Returns:
        The exit code: 2 for what the user can mend, see `run_guarded` for the others.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(_help())
        return 0
    if first == "--version":
        print(f"vfunc {metadata.version('vfunc')}")
        return 0
    if first not in COMMANDS:
        near = difflib.get_close_matches(first, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        kind = "option" if first.startswith("-") else "command"
        return _failed(f"vfunc has no {kind} {first!r}; {hint} (vfunc --help)")
    return call(first, words[1:], f"vfunc {first}")


def call(command: str, argv: Sequence[str], program: str) -> int:
    """Carry out one command.

    Args:
        command: a key of `COMMANDS`.
        argv: the command's options.
        program: name of the command, for its `--help`.

    Returns:
        The exit code; 130 after Ctrl-C.
    """
    try:
        needs("run")
        if told_without_torch(argv, lambda: _carried_out(command, argv, program)):
            return 0
        return _carried_out(command, argv, program)
    except MissingExtraError as error:
        return _failed(str(error))
    except KeyboardInterrupt:  # while it imports what it needs; later it answers itself
        return _failed("interrupted", 130)


def _carried_out(command: str, argv: Sequence[str], program: str) -> int:
    carry_out: Callable[[Sequence[str], str], int] = import_module(COMMANDS[command][0]).main
    return carry_out(argv, program)


def _help() -> str:
    rows = "\n".join(f"  {name:15}{purpose}" for name, (_, purpose) in COMMANDS.items())
    return f"""usage: vfunc COMMAND [OPTIONS]

Value gradients for self-supervised task design.

commands:
{rows}

`vfunc COMMAND --help` tells a command's options, `vfunc --version` the version."""


def _failed(message: str, code: int = 2) -> int:
    print(f"error: {one_line(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
