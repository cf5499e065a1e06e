"""Is feedback large and similar enough, and can value see a right task? `python foresee.py --help`.

Takes the options of run.py, trains nothing and writes nothing: cosines of g_down between draws of
feedback and with held-out examples, and V of known tasks over batches with its t value.
"""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("foresee", sys.argv[1:], "foresee.py"))
