"""A stream without texts that hold a test example: `python experiments/decontaminate.py --help`."""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("decontaminate", sys.argv[1:], "decontaminate.py"))
