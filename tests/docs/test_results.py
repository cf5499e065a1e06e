"""Tables of docs/results.md are what `compare --from` makes of the figures kept beside it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vfunc.report.measures import Measures
from vfunc.studies.comparison_files import primary_of
from vfunc.studies.finished_runs import find_runs

ROOT = Path(__file__).resolve().parents[2]
KEPT = sorted((ROOT / "experiments" / "results").iterdir()) if (ROOT / "experiments").is_dir() else []
