"""The page of a run, or of several side by side: `python experiments/report.py --help`."""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("report", sys.argv[1:], "report.py"))
