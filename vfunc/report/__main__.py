"""`python -m vfunc.report RUN...` is the command `vfunc report`."""

import sys

from vfunc.report.page.report_command import main

sys.exit(main(sys.argv[1:], "python -m vfunc.report"))
