"""Tables of docs/results.md are what `compare --from` makes of the figures kept for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vfunc.report.seed_figures import comparison_table
from vfunc.report.seed_statistics import compare_over_seeds
from vfunc.report.table import markdown
from vfunc.studies.comparison_files import primary_of
from vfunc.studies.finished_runs import find_runs, measures_of

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(p for p in (ROOT / "experiments" / "results").glob("*") if p.is_dir())
CELL = re.compile(
    r"^\|\s*(?:V-pretraining, )?`?([\w+]+)`?\s*\|\s*\**([\d.]+ ± [\d.]+)\**\s*\|", re.M
)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_table_is_that_of_its_figures(folder):
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    command = re.search(
        rf"compare.py --from experiments/results/{folder.name} --primary (\w+)", text
    )
    assert command, f"docs/results.md does not say how to print {folder.name}"
    found = find_runs([folder])
    measures, primary = measures_of(found), primary_of(command[1], found)
    arms = compare_over_seeds([one.seed_run for one in found], measures)
    made = dict(CELL.findall(markdown(comparison_table(arms, measures, primary, primary=True))))
    section = text[: command.start()].rsplit("\n# ", 1)[1]
    told = dict(CELL.findall(section))
    assert {**made, "dot": made["vpretraining"]}.items() >= told.items() and len(told) == len(made)
