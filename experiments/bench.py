"""Cost and fidelity of the estimators at one state: `python experiments/bench.py --help`."""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("bench", sys.argv[1:], "bench.py"))
