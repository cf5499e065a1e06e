"""Useful texts among what a crawl brings: `python experiments/make_crawl.py --help`."""

import sys

from vfunc.console import call

if __name__ == "__main__":
    sys.exit(call("make-crawl", sys.argv[1:], "make_crawl.py"))
