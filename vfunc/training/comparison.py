"""What several runs amount to: read them, and write what comparing them over seeds gives."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from vfunc.errors import UserError
from vfunc.report.comparison import (
    METRICS,
    TOKENS_PER_SECOND,
    ArmOverSeeds,
    SeedRun,
    common_metrics,
    compare_over_seeds,
)
from vfunc.report.comparison_figures import comparison_plot, comparison_table
from vfunc.report.table import markdown
from vfunc.training.checkpoint import write_atomically, write_json
from vfunc.training.config import COMMAND
from vfunc.training.provenance import git_commit
from vfunc.training.run_directory import RunDirectory

# What does not make a setting of its own: a seed is not one, arms are compared within runs.
_NO_SETTING = (*COMMAND, "seed", "arms", "device", "threads")
_MADE_WITH = ("git_commit", "device", "threads", "versions")


@dataclass(frozen=True)
class FoundRun:
    """A finished run, as its metrics.json has it.

    Attributes:
        path: its directory.
        setting: see `SeedRun`.
        content: of metrics.json.
    """

    path: Path
    setting: str
    content: dict[str, Any]

    @property
    def seed_run(self) -> SeedRun:
        """What of it is compared."""
        try:
            return SeedRun(
                self.setting,
                self.content["config"]["seed"],
                {name: _figures(arm) for name, arm in self.content["arms"].items()},
            )
        except (KeyError, TypeError, ZeroDivisionError) as error:
            raise UserError(
                f"{self.path / 'metrics.json'} is not that of a run ({error!r}); leave it out, or "
                "run it again"
            ) from error


def read_run(path: Path, setting: str = "") -> FoundRun:
    """Read a finished run.

    Args:
        path: its directory.
        setting: what sets it apart besides its seed.

    Raises:
        UserError: it holds no metrics.json that can be read.
    """
    metrics = RunDirectory(path).metrics
    try:
        content = json.loads(metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{metrics} cannot be read: {error}") from error
    found = FoundRun(path, setting, content)
    _ = found.seed_run  # complain now, with its place
    return found


def find_runs(paths: Sequence[Path]) -> list[FoundRun]:
    """The finished runs in directories, each named by the options in which they differ.

    Args:
        paths: directories of runs, or folders that hold such directories, two levels deep at most.

    Raises:
        UserError: a directory holds no run or one that is not finished, or two repeat each other.
    """
    places: dict[Path, None] = {}
    for path in paths:
        configs = [c for level in ("", "*/", "*/*/") for c in path.glob(f"{level}config.toml")]
        runs = sorted(config.parent for config in configs)
        if not runs:
            raise UserError(f"--from {path}: there is no run (a directory with a config.toml)")
        places |= dict.fromkeys(runs)
    unfinished = [path for path in places if not RunDirectory(path).metrics.exists()]
    if unfinished:
        raise UserError(
            f"not finished: {', '.join(map(str, unfinished))}; finish it by run.py --resume, or "
            "name the other directories"
        )
    found = [read_run(path) for path in places]
    options = [
        {k: v for k, v in f.content["config"].items() if k not in _NO_SETTING} for f in found
    ]
    names = dict.fromkeys(name for one in options for name in one)
    varied = [name for name in names if any(o.get(name) != options[0].get(name) for o in options)]
    named = [
        FoundRun(f.path, ", ".join(f"{n}={_shown(o.get(n))}" for n in varied), f.content)
        for f, o in zip(found, options, strict=True)
    ]
    first: dict[tuple[str, int], Path] = {}
    for one in named:
        seed = one.seed_run.seed
        before = first.setdefault((one.setting, seed), one.path)
        if before != one.path:
            raise UserError(f"{before} and {one.path} repeat each other: both have seed {seed}")
    return named


def primary_of(wanted: str | None, found: Sequence[FoundRun]) -> str:
    """The primary metric: the one wanted, else Pass@1 where every arm has it, else the loss.

    Raises:
        UserError: the one that is wanted was not measured.
    """
    measured = common_metrics([one.seed_run for one in found])
    if wanted is not None and wanted not in measured:
        other = " or ".join(measured)
        raise UserError(
            f"--primary {wanted}: not every arm has it, since the held-out data hold no answers to "
            f"check; give {other}, the finished runs are kept"
        )
    return wanted or next(metric for metric in METRICS if metric in measured)


def write_comparison(
    found: Sequence[FoundRun], primary: str, command: str, folder: Path, console: Console
) -> None:
    """Compare runs over their seeds, write comparison.json, .md and .png, and print the tables.

    Args:
        found: the runs.
        primary: the metric that the comparison is about.
        command: what was typed, for the record.
        folder: where to write; made if it is not there.
        console: where to print.

    Raises:
        UserError: see `compare_over_seeds`.
        OSError: a file cannot be written.
    """
    arms = compare_over_seeds([one.seed_run for one in found])
    metrics = sorted(arms[0].metrics, key=lambda metric: metric != primary)
    made_with = _distinct([{k: f.content.get(k) for k in _MADE_WITH} for f in found])
    notes = []
    if len(made_with) > 1:
        differing = [k for k in _MADE_WITH if len(_distinct([m[k] for m in made_with])) > 1]
        notes.append(f"The runs differ in what made them: {', '.join(differing)}.")
    write_json(
        folder / "comparison.json",
        {
            "command": command,
            "git_commit": git_commit(),
            "primary": primary,
            "confidence": 0.95,
            "arms": [asdict(arm) for arm in arms],
            "runs": [
                {
                    "path": str(one.path),
                    "setting": one.setting,
                    **{k: one.content.get(k) for k in ("config", *_MADE_WITH)},
                }
                for one in found
            ],
            "notes": notes,
        },
    )
    tables = {m: comparison_table(arms, m, primary=m == primary) for m in metrics}
    text = _page(tables, arms, command, made_with, notes)
    write_atomically(folder / "comparison.md", lambda t: Path(t).write_text(text, encoding="utf-8"))
    write_atomically(folder / "comparison.png", lambda t: comparison_plot(arms, primary, t))
    for table in tables.values():
        console.print()
        console.print(table)
    for note in notes:
        console.print(f"\n{note}")
    console.print(
        f"\nfiles    {folder}/comparison.json, .md, .png", highlight=False, soft_wrap=True
    )


def _page(
    tables: dict[str, Any],
    arms: Sequence[ArmOverSeeds],
    command: str,
    made_with: Sequence[dict[str, Any]],
    notes: Sequence[str],
) -> str:
    seeds = sorted({seed for arm in arms for seed in arm.seeds})
    parts = [f"# Arms over seeds {', '.join(map(str, seeds))}"]
    parts += [f"## {table.title}\n\n{markdown(table).rstrip()}" for table in tables.values()]
    parts += ["![Every seed, mean and interval of each arm](comparison.png)", *notes]
    parts.append(f"## Made by\n\n```\n{command}\n```")
    for made in made_with:
        versions = ", ".join(f"{name} {v}" for name, v in (made["versions"] or {}).items())
        parts.append(
            f"- commit {made['git_commit'] or 'unknown'}\n- {versions}\n"
            f"- {made['device']}, {made['threads']} threads"
        )
    return "\n\n".join(parts) + "\n"


def _figures(arm: dict[str, Any]) -> dict[str, float]:
    figures = {name: arm["metrics"].get(name) for name in METRICS}
    measured = {name: float(value) for name, value in figures.items() if value is not None}
    return {**measured, TOKENS_PER_SECOND: arm["tokens"] / arm["seconds"]}


def _distinct(items: Sequence[Any]) -> list[Any]:
    return [item for index, item in enumerate(items) if item not in items[:index]]


def _shown(value: object) -> str:
    if value is None:
        return "default"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)
