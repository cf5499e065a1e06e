"""Repeat the main job over seeds and settings, and compare: `python experiments/compare.py --help`.

runs/<name>/
  seed0/, seed1/, ...                    a run each, as experiments/run.py leaves it
  <setting>/seed0/, ...                  with --vary
  comparison.json, .md, .png             what they come to
"""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("compare", sys.argv[1:], "compare.py"))
