"""Tables of docs/results.md are what `compare --from` makes of the figures kept for them."""

from __future__ import annotations

import csv
import re
import statistics
from pathlib import Path

import pytest

from vfunc.evaluation.pass_at_k import seed_interval
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
    if "vpretraining" in made and not by_name:  # a table names its value
        made[found[0].content["config"].get("value") or "dot"] = made.pop("vpretraining")
    section = re.split(r"\n#+ ", text[: command.start()])[-1]
    told = figures(section, folder.name)
    assert {n: x for n, x in told.items() if n != "start"} == made


def test_the_table_of_feedback_sizes_is_that_of_its_figures():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    with (ROOT / "experiments/results/feedback_size_random_slips.csv").open() as file:
        rows = list(csv.DictReader(file))
    section = text.split("\n## How little feedback is enough")[1].split("\n## ")[0]
    loss, accuracy = section.split("### The same: Pass@1")
    for part, metric, told in ((loss, "loss", "{:.4f}"), (accuracy, "pass_at_1", "{:.1f}")):
        table = [cells(line) for line in part.splitlines() if line.startswith("| ")]
        sizes, arms = [size.replace(",", "") for size in table[0][1:]], table[1:]
        names = {"V-pretraining, `cosine`": "vpretraining", "`mixing`, a quarter": "mixing",
                 "baseline, without any": "baseline", "`sft`": "sft",
                 "`known_wrong`, told the mistakes": "known_wrong"}  # fmt: skip
        assert {row[0] for row in arms} == names.keys()
        unit = 1 if metric == "loss" else 100
        for name, *figures_of in arms:
            for size, figure in zip(sizes, figures_of, strict=True):
                (row,) = (
                    r for r in rows
                    if (r["feedback_size"], r["arm"], r["metric"]) == (size, names[name], metric)
                )  # fmt: skip
                mean, low = float(row["mean"]) * unit, float(row["low"]) * unit
                assert figure == f"{told.format(mean)} ± {told.format(mean - low)}"


def test_the_table_of_candidates_updates_and_subsets_is_that_of_its_figures():
    with (ROOT / "experiments/results/settings_random_slips.csv").open() as file:
        rows = list(csv.DictReader(file))
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    section = text.split("\n## Candidates, updates, and where value is taken")[1].split("\n## ")[0]
    table = [cells(line) for line in section.splitlines() if line.startswith("| `")]
    assert len(table) == len({(row["option"], row["value"]) for row in rows}) == 11
    by_setting = {}
    for row in rows:
        flag = f"--{row['option'].replace('_', '-')} {row['value']}"
        by_setting.setdefault(flag, []).append((float(row["loss"]), 100 * float(row["pass_at_1"])))
    for name, loss, _, _, solved in table:
        found = by_setting[name.split("`")[1]]
        for told, figures_of, digits in ((loss, 0, 4), (solved, 1, 1)):
            values = [one[figures_of] for one in found]
            mean, interval = statistics.fmean(values), seed_interval(values)
            assert told == f"{mean:.{digits}f} ± {mean - interval[0]:.{digits}f}"
