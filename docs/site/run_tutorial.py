"""Runs the tutorial's script as the page prints it: `python docs/site/run_tutorial.py`.

That draws docs/tutorial.png again. The tests run it in a folder of their own.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

import matplotlib

PAGE = Path(__file__).parents[1] / "tutorial.md"


def run_tutorial(folder: Path) -> dict[str, object]:
    """The names that the script leaves; its picture is in the folder."""
    matplotlib.use("Agg")
    names: dict[str, object] = {"__name__": "tutorial"}
    with contextlib.chdir(folder):
        for block in re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S):
            exec(compile(block, str(PAGE), "exec"), names)
    return names


if __name__ == "__main__":
    run_tutorial(PAGE.parent)
