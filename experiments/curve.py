"""Curves over settings and over finished runs, as data and figures: `python experiments/curve.py --help`.

<kind>.json, <kind>.csv, <kind>.png      what it comes to
"""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("curve", sys.argv[1:], "curve.py"))
