"""The counterfactual score of value estimators: `python experiments/score.py --help`.

runs/<name>/
  state-<fraction>.json                  what was measured at each state
  <option>=<value>/state-....json        with --sweep
  score.json, .md, .png                  what it comes to
"""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("score", sys.argv[1:], "score.py"))
