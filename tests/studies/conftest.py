"""The small runs of training, for what is measured on one."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))

from small_run import shallow

__all__ = ["shallow"]
