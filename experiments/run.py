"""Train with and without learned tasks, and compare: `python experiments/run.py --help`."""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("run", sys.argv[1:], "run.py"))
