"""The command `foresee`: what there is to expect of a run's feedback and tasks, untrained."""

from __future__ import annotations

from collections.abc import Sequence

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.training.options.run_config import RunConfig
from vfunc.training.run_command_line import run_guarded

TOO_LITTLE = (
    "g_down    too little feedback, or too few held-out examples, to compare two draws of each"
)


def main(argv: Sequence[str], program: str = "vfunc foresee") -> int:
    """Carry out a command line: that of a run.

    Args:
        argv: options.
        program: name of the command, for `--help`.

    Returns:
        The exit code, see `run_guarded`.
    """
    return run_guarded(_foresee, argv, program=program)


def _foresee(config: RunConfig) -> None:
    # only now: --help and a mistake in an option need not wait for it
    from vfunc.evaluation.expected import in_words
    from vfunc.printable import SafeConsole
    from vfunc.training.assemble import assemble
    from vfunc.training.foretelling.foresight import foresee
    from vfunc.training.start import start_arm

    designed = [name for name in config.run.arms if ARMS[name].designed]
    if not designed:
        raise UserError(f"--arms {','.join(config.run.arms)}: none of them asks feedback")
    if config.command.resume:
        raise UserError("--resume goes on with training; foresee looks at the start of a run alone")
    arm = min(designed, key=lambda name: ARMS[name].random)
    found = foresee(start_arm(arm, assemble(config)))
    console = SafeConsole()
    for line in in_words(found) or [TOO_LITTLE]:
        console.print(line, highlight=False, markup=False, soft_wrap=True)
