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
NAME = re.compile(r"(?:V-pretraining, |… )?`?([\w+]+)`?")
FIGURE = re.compile(r"\**([\d.]+(?: ± [\d.]+)?)\**")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def figures(text: str, column: str) -> dict[str, str]:
    """Names and figures of a text's tables: of the column of that name, or of the first."""
    found, at = {}, 1
    lines = text.splitlines()
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if not line.startswith("|") or line.startswith("|---"):
            continue
        row = cells(line)
        if below.startswith("|---"):
            at = row.index(f"`{column}`") if f"`{column}`" in row else 1
            continue
        name, figure = NAME.match(row[0]), FIGURE.fullmatch(row[at])
        if name and figure:
            found[name[1]] = figure[1]
    return found


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
    made = figures(markdown(comparison_table(arms, measures, primary, primary=True)), "")
    if not by_name:
        made["dot"] = made.pop("vpretraining")
    section = re.split(r"\n#+ ", text[: command.start()])[-1]
    told = figures(section, folder.name)
    assert {n: x for n, x in told.items() if n != "start"} == made
