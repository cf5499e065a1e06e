"""The command `run`: reads the options, then carries out the run."""

from __future__ import annotations

from collections.abc import Sequence

from vfunc.training.options.run_config import RunConfig
from vfunc.training.run_command_line import run_guarded


def main(argv: Sequence[str], program: str = "vfunc run") -> int:
    """Carry out a command line.

    Args:
        argv: options.
        program: name of the command, for `--help`.

    Returns:
        The exit code, see `run_guarded`.
    """
    return run_guarded(_run, argv, program=program)


def _run(config: RunConfig) -> None:
    # only now: --help and a mistake in an option need not wait for it
    from vfunc.training.run import run

    run(config)
