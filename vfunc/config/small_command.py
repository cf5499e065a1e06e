"""Reads and carries out a command of its own few options, which is no run and takes no presets."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from vfunc.config.command_line import wrapped
from vfunc.config.refusals import refused_in_a_line
from vfunc.errors import UserError
from vfunc.extras import needs
from vfunc.printable import one_line

with needs("run", "tyro"):
    import tyro

_Options = TypeVar("_Options")


def small_command(
    options: type[_Options],
    carried_out: Callable[[_Options], str],
    argv: Sequence[str] | None,
    program: str,
    description: str,
) -> int:
    """Carry out a command line, and print what is said of it.

    Args:
        options: a dataclass of the options.
        carried_out: does it; gives what to print.
        argv: options; None takes the process's own.
        program: name of the command, for `--help`.
        description: what it is for, with %(prog)s in place of its name.

    Returns:
        The exit code: 2 for what the user can mend, told in one line; 130 after Ctrl-C.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    try:
        with refused_in_a_line(words):
            told = wrapped(description.replace("%(prog)s", program))
            given = tyro.cli(options, args=words, prog=program, description=told)
        _print(carried_out(given))
    except UserError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    except SystemExit:  # --help
        return 0
    except KeyboardInterrupt:
        print("error: interrupted", file=sys.stderr)
        return 130
    return 0


def _print(said: str) -> None:
    """Print, to a reader who may have gone (`| head`): what was done is done all the same."""
    try:
        print(said, flush=True)
    except BrokenPipeError:  # at exit Python would flush once more
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
