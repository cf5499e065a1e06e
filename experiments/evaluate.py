"""Benchmarks of a saved learner, without training: `python experiments/evaluate.py --help`."""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("evaluate", sys.argv[1:], "evaluate.py"))
