"""Worked solutions, a share of them wrong: `python experiments/make_careless.py --help`."""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("make-careless", sys.argv[1:], "make_careless.py"))
