"""Train with and without learned tasks, and compare: `python experiments/run.py --help`."""

import sys

from vfunc.config.command_line import run_guarded
from vfunc.training.run import run

if __name__ == "__main__":
    sys.exit(run_guarded(run))
