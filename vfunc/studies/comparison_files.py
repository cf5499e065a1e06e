"""Writes the comparison of several runs over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from vfunc.errors import UserError
from vfunc.printable import printable
from vfunc.report.measures import LOSS
from vfunc.report.seed_figures import comparison_plot, comparison_table
from vfunc.report.seed_statistics import ArmOverSeeds, common_metrics, compare_over_seeds
from vfunc.report.table import markdown
from vfunc.studies.estimators_on_offer import ESTIMATED
from vfunc.studies.finished_runs import FoundRun, by_estimator, measures_of, told_twice
from vfunc.studies.score.scored_estimators import with_fidelity
from vfunc.training.checkpoint import write_atomically, write_json
from vfunc.training.files.identity import differences, told
from vfunc.training.provenance import git_commit

_MADE_WITH = ("git_commit", "device", "threads", "versions")


def primary_of(wanted: str | None, found: Sequence[FoundRun]) -> str:
    """The primary metric: the one wanted, else the modality's where it is measured, else the loss.

    Raises:
        UserError: the one that is wanted was not measured.
    """
    measures = measures_of(found)
    measured = [metric.name for metric in common_metrics([f.seed_run for f in found], measures)]
    if wanted is not None and wanted not in measured:
        instead = f"give {' or '.join(measured)}, " if measured else ""
        raise UserError(
            f"--primary {wanted}: not every arm has it ({_lacking(found, wanted)}), since it is "
            "not measured, was not finite, or the held-out data do not hold what it needs; "
            f"{instead}the finished runs are kept"
        )
    if not measured:
        raise UserError(
            f"there is no metric that all arms have: no {LOSS} in {_lacking(found, LOSS)}; leave "
            "such runs out"
        )
    usual = {one.measures.primary.name for one in found}
    return wanted or (usual.pop() if len(usual) == 1 and usual <= set(measured) else LOSS)


def write_comparison(
    found: Sequence[FoundRun],
    primary: str,
    command: str,
    folder: Path,
    console: Console,
    score: Path | None = None,
    said: Sequence[str] = (),
) -> None:
    """Compare runs over their seeds, write comparison.json, .md and .png, and print the tables.

    Args:
        found: the runs.
        primary: the metric that the comparison is about.
        command: the command line, for the record.
        folder: the folder to write to, made if need be.
        console: the console to print on.
        score: the folder of a score of the estimators, for a column of its own; None for none.
        said: what there is to note on how the runs were made.

    Raises:
        UserError: see `compare_over_seeds` and `with_fidelity`.
        OSError: a file cannot be written.
    """
    measures = measures_of(found)
    named = any(one.estimator for one in found)
    compared = by_estimator(found, ESTIMATED) if named else [one.seed_run for one in found]
    arms = compare_over_seeds(compared, measures)
    metrics = sorted(arms[0].metrics, key=lambda metric: metric != primary)
    made_with = _distinct([{k: f.content.get(k) for k in _MADE_WITH} for f in found])
    notes = [*said]
    if len(made_with) > 1:
        differing = [k for k in _MADE_WITH if len(_distinct([m[k] for m in made_with])) > 1]
        notes.append(f"The runs differ in what made them: {', '.join(differing)}.")
    notes += [*_other_data(found), *(told_twice(found, ESTIMATED) if named else ())]
    for metric in measures.metrics:
        if metric.name not in metrics and _arms_with(found, metric.name, has=True):
            where = _lacking(found, metric.name)
            notes.append(f"{metric.name} is not compared: not every arm has it ({where}).")
    if score is not None:
        arms, of_score = with_fidelity(arms, found, score)
        notes += of_score
    for one in found:
        for change in one.content.get("accepted_changes", ()):
            notes.append(f"{one.path} went on with a change that was accepted: {change}.")
    write_json(
        folder / "comparison.json",
        {
            "command": command,
            "git_commit": git_commit(),
            "unit": measures.unit,
            "metrics": [asdict(measures.metric(name)) for name in metrics],
            "primary": primary,
            "confidence": 0.95,
            "arms": [asdict(arm) for arm in arms],
            "runs": [
                {
                    "path": str(one.path),
                    "setting": one.setting,
                    **({"estimator": one.estimator} if named else {}),
                    **{k: one.content.get(k) for k in ("config", *_MADE_WITH)},
                }
                for one in found
            ],
            "notes": notes,
        },
    )
    tables = {m: comparison_table(arms, measures, m, primary=m == primary) for m in metrics}
    text = _page(tables, arms, command, made_with, notes)
    write_atomically(folder / "comparison.md", lambda t: Path(t).write_text(text, encoding="utf-8"))
    picture = folder / "comparison.png"
    write_atomically(picture, lambda t: comparison_plot(arms, measures, primary, t))
    for table in tables.values():
        console.print()
        console.print(table)
    for note in notes:
        console.print(f"\n{note}")
    console.print(
        f"\nfiles    {folder}/comparison.json, .md, .png", highlight=False, soft_wrap=True
    )


def _arms_with(found: Sequence[FoundRun], metric: str, *, has: bool) -> list[str]:
    """The arms of runs that have a metric, or that lack it."""
    return [
        f"{one.path}, arm {arm}"
        for one in found
        for arm, figures in one.seed_run.arms.items()
        if (metric in figures) is has
    ]


def _lacking(found: Sequence[FoundRun], metric: str) -> str:
    """The first arm that lacks a metric, and how many others do."""
    first, *others = _arms_with(found, metric, has=False)
    return f"{first}, and {len(others)} more" if others else first


def _other_data(found: Sequence[FoundRun]) -> list[str]:
    """Which files had other contents for another seed of a setting."""
    first: dict[str, FoundRun] = {}
    changes: dict[str, None] = {}
    for one in found:
        base = first.setdefault(one.setting, one)
        if base.reads["inputs"] and one.reads["inputs"]:
            changes |= dict.fromkeys(differences(base.reads, one.reads))
    return [f"The runs read different data: {told(list(changes))}."] if changes else []


def _page(
    tables: dict[str, Any],
    arms: Sequence[ArmOverSeeds],
    command: str,
    made_with: Sequence[dict[str, Any]],
    notes: Sequence[str],
) -> str:
    seeds = sorted({seed for arm in arms for seed in arm.seeds})
    sections = [f"# Arms over seeds {', '.join(map(str, seeds))}"]
    sections += [f"## {table.title}\n\n{markdown(table).rstrip()}" for table in tables.values()]
    sections += ["![Every seed, mean and interval of each arm](comparison.png)", *notes]
    sections.append(f"## Made by\n\n```\n{printable(command)}\n```")
    for made in made_with:
        versions = ", ".join(f"{name} {v}" for name, v in (made["versions"] or {}).items())
        sections.append(
            f"- commit {made['git_commit'] or 'unknown'}\n- {versions}\n"
            f"- {made['device']}, {made['threads']} threads"
        )
    return "\n\n".join(sections) + "\n"


def _distinct(items: Sequence[Any]) -> list[Any]:
    return [item for index, item in enumerate(items) if item not in items[:index]]
