"""Tables of docs/results.md are what `compare --from` makes of the figures kept for them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from vfunc.report.seed_figures import comparison_table
from vfunc.report.seed_statistics import compare_over_seeds
from vfunc.report.table import markdown
from vfunc.studies.comparison_files import primary_of
from vfunc.studies.estimators_on_offer import ESTIMATORS_ON_OFFER
from vfunc.studies.finished_runs import by_estimator, find_runs, measures_of

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = sorted(p for p in (ROOT / "experiments" / "results").glob("*") if p.is_dir())
NAME = r"^\|\s*(?:V-pretraining, |… )?`?([\w+]+)`?[^|]*\|"
FIGURE = r"\s*\**([\d.]+(?: ± [\d.]+)?)\**\s*\|"
ROW = re.compile(NAME + FIGURE, re.M)


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_table_is_that_of_its_figures(folder):
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    line = (
        rf"compare.py --from experiments/results/{folder.name}( --estimators all)? --primary (\w+)"
    )
    command = re.search(line, text)
    assert command, f"docs/results.md does not say how to print {folder.name}"
    by_name = command[1] is not None
    found = find_runs([folder], tuple(ESTIMATORS_ON_OFFER) if by_name else ())
    measures, primary = measures_of(found), primary_of(command[2], found)
    runs = by_estimator(found, "vpretraining") if by_name else [one.seed_run for one in found]
    arms = compare_over_seeds(runs, measures)
    made = dict(ROW.findall(markdown(comparison_table(arms, measures, primary, primary=True))))
    if not by_name:
        made["dot"] = made.pop("vpretraining")
    section = re.split(r"\n#+ ", text[: command.start()])[-1]
    assert {n: x for n, x in ROW.findall(section) if n != "start"} == made
