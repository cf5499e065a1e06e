"""Counts the package's structure: `python tests/structure/counts.py` prints a line for each count.

Options, and files and lines of their configuration, the fullest folders, file names that occur more
than once, and the findings of basedpyright where it is installed.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from vfunc.training.build.configuration import MODALITIES, catalogue_of

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "vfunc").rglob("*.py"))
BY_MODALITY = {
    "__init__.py",
    "__main__.py",
    "conditions.py",
    "contradictions.py",
    "learner.py",
    "options.py",
    "reporting.py",
    "value_map.py",
    "value_problem.py",
    "workload.py",
}
"""File names that every package, or every modality, has."""


def lines(paths: list[Path]) -> int:
    """Lines of the files together."""
    return sum(len(path.read_text(encoding="utf-8").splitlines()) for path in paths)


def type_findings() -> str:
    """The number of basedpyright's errors, and of files that it looked at."""
    checker = shutil.which("basedpyright", path=Path(sys.executable).parent)
    if checker is None:
        return "unknown (pip install basedpyright)"
    command = [checker, "--pythonpath", sys.executable, "--outputjson"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    summary = json.loads(found.stdout)["summary"]
    return f"{summary['errorCount']} in {summary['filesAnalyzed']} files"


def main() -> None:
    """Print the counts."""
    mechanism = [path for path in FILES if path.parent.name == "config"]
    groups = [path for path in FILES if path.name.endswith("options.py")]
    folders = Counter(path.parent.relative_to(ROOT).as_posix() for path in FILES)
    largest = ", ".join(f"{name} {count}" for name, count in folders.most_common(3))
    names = Counter(path.name for path in FILES)
    twice = sorted(name for name, n in names.items() if n > 1 and name not in BY_MODALITY)
    print(f"package: {len(FILES)} files, {lines(FILES)} lines")
    options = {name for modality in MODALITIES for name in catalogue_of(modality)}
    print(f"options: {len(options)}")
    print(f"their mechanism: {len(mechanism)} files, {lines(mechanism)} lines")
    print(f"groups of options: {len(groups)} files, {lines(groups)} lines")
    print(f"largest folders: {largest}")
    print(f"file names that occur twice: {len(twice)} ({', '.join(twice)})")
    print(f"type findings: {type_findings()}")


if __name__ == "__main__":
    main()
