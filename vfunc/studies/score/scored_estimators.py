"""Finds each arm's counterfactual score, for a comparison's table: how far to trust its values."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from vfunc.config.known import flag
from vfunc.errors import UserError
from vfunc.estimators import Estimator, Implicit, make_estimator, option_names
from vfunc.report.seed_statistics import ArmOverSeeds, Fidelity
from vfunc.studies.estimators_on_offer import ESTIMATED
from vfunc.studies.finished_runs import FoundRun
from vfunc.studies.score.rows import ROWS
from vfunc.training.files.identity import plain

RANDOM = "random_feedback"
_ASKED = ("modality", "problem", "learner", "stream", "feedback", "eval")
"""Options that decide what is asked: a score under others is of another question."""
_NOT_COMPARED = ("seed", "arms", "budget", "estimator")


def with_fidelity(
    arms: Sequence[ArmOverSeeds], found: Sequence[FoundRun], score: Path
) -> tuple[list[ArmOverSeeds], list[str]]:
    """The arms with their estimators' scores, and what to say of these.

    An estimator's score is that of its slope at the text as it is, along which a designer goes, or
    of its value where that is the same; at the last horizon, on the held-out loss.

    Args:
        arms: the arms of a comparison.
        found: its runs.
        score: the folder of a finished score.

    Raises:
        UserError: there is no such score, or it is of another problem, learner or data.
    """
    content, asked = _read(score)
    differing: dict[str, str] = {}
    for one in found:
        for name, said in _differences(score, asked, one.content["config"]).items():
            differing.setdefault(name, said)
    fidelity = _by_row(content["settings"][0])
    labels: dict[tuple[str, str], str | None] = {}
    for one in found:
        run = one.seed_run
        for arm in run.arms:
            shown = one.estimator if one.estimator and arm == ESTIMATED else arm
            if arm in (ESTIMATED, RANDOM):
                labels[run.setting, shown] = row_of(one.content["config"], arm)
    told = [replace(a, fidelity=fidelity.get(labels.get((a.setting, a.arm)) or "")) for a in arms]
    command = content.get("command")
    notes = [f"score: {score}" + (f", by `{command}`" if command else "") + "."]
    if differing:
        notes.append(f"The score is of a run with other options: {'; '.join(differing.values())}.")
    return told, notes


def require_score(folder: Path, options: Mapping[str, Any]) -> None:
    """Check that there is a finished score, of what runs are to be about.

    Args:
        folder: where it is said to be.
        options: the options of such a run.

    Raises:
        UserError: there is none, a sweep, or one of another problem, learner or data.
    """
    _differences(folder, _read(folder)[1], {k: plain(v) for k, v in options.items()})


def _differences(
    score: Path, asked: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, str]:
    """In words, the options in which the run of a score differs from another."""
    estimators = {name for row in ROWS for name in option_names(type(row.estimator(1.0)))}
    compared = config.keys() & asked.keys() - estimators - set(_NOT_COMPARED)
    differing = {
        name: f"{flag(name)} {asked[name]} in the score, {config[name]} here"
        for name in sorted(compared)
        if config[name] != asked[name]
    }
    for name in _ASKED:
        if name in differing:
            raise UserError(f"--score {score} is of another question: {differing[name]}")
    return differing


def row_of(config: Mapping[str, Any], arm: str) -> str | None:
    """The label of the score's row for an arm's estimator; None where the score has none.

    Args:
        config: the run's options.
        arm: `vpretraining`, or the arm with a random direction.
    """
    if arm == RANDOM:
        return "random"
    name = config.get("estimator", "first_order")
    if all(row.name != name for row in ROWS):
        return str(name)  # one's own, by its name, with its default options
    known = option_names(type(make_estimator(name)))
    given = {k: config[k] for k in known if config.get(k) is not None}
    if "damping" in given:
        return None  # rows have it in units of 1 / eta, which changes on the way
    mine = _comparable(make_estimator(name, given))
    rows = (row for row in ROWS if row.name == name)
    return next((row.label for row in rows if _comparable(row.estimator(1.0)) == mine), None)


def _comparable(estimator: Estimator) -> Estimator:
    """The same with what decides over its numbers alone: damping in units of 1 / eta, no engine."""
    made: Any = estimator
    if isinstance(made, Implicit) and made.damping is None:
        made = replace(made, damping=1.0)
    return replace(made, engine="auto") if hasattr(made, "engine") else made


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """A score's figures, and the question that it was asked."""
    try:
        content = json.loads((folder / "score.json").read_text(encoding="utf-8"))
        settings = content["settings"]
        for one in settings:
            _ = _by_row(one)
        asked = folder / "asked.json"
        question = json.loads(asked.read_text(encoding="utf-8")) if asked.exists() else {}
        _ = question.keys()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"--score {folder}: there is no finished score that can be read ({error!r}); "
            "make one by experiments/score.py"
        ) from error
    if len(settings) != 1:
        raise UserError(
            f"--score {folder} holds a sweep of {len(settings)} settings; give a single one"
        )
    return content, question


def _by_row(setting: Mapping[str, Any]) -> dict[str, Fidelity]:
    """Each row's score at the last horizon: of its slope, else of its value or objective."""
    whole = [s for s in setting["scores"] if s["measure"] == "test" and s.get("share") is None]
    last = max((s["horizon"] for s in whole), default=None)
    found: dict[str, Fidelity] = {}
    for reading in ("objective", "value", "slope"):
        for s in whole:
            if s["horizon"] == last and s["reading"] == reading:
                spearman = s["agreement"]["spearman"]
                figures = (float(spearman[k]) for k in ("value", "low", "high"))
                found[s["row"]] = Fidelity(*figures, horizon=s["horizon"])
    return found
