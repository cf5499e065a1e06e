"""Curves over settings and over finished runs: `python experiments/curve.py --help`.

runs/<name>/                             or beside the runs that are read
  <kind>.json, .csv, .png                data and figure
"""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("curve", sys.argv[1:], "curve.py"))
