"""`python -m vfunc` is the console command `vfunc`."""

import sys

from vfunc.console import main

sys.exit(main())
