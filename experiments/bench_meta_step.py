"""What a designer's update costs in vision: `python experiments/bench_meta_step.py --help`."""

import sys
from pathlib import Path

from vfunc.extras import needs

if __name__ == "__main__":
    with needs("run", "tyro"):
        from vfunc.studies.vision_bench import main

    sys.exit(main(sys.argv[1:], Path(sys.argv[0]).name))
