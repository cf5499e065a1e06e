"""Reads what a run has left in its folder, as far as it is there and whole.

Nothing here refuses a run that is unfinished or damaged: what is missing becomes a line in `gaps`.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfunc.arms import ARMS
from vfunc.errors import UserError
from vfunc.modality import Metric
from vfunc.report.measures import Measures, read_measures
from vfunc.typecheck import typed

Event = Mapping[str, Any]

_UNITS = {"language": "tokens", "vision": "images"}
_METRICS = {
    "tokens": (
        Metric("loss", "held-out\nloss", "nat", outcomes="loss"),
        Metric("pass_at_1", "Pass@1\n%", "%", True, "pass_at_1", 100.0, 1),
    ),
    "images": (Metric("loss", "held-out\nloss", outcomes="loss"),),
}
"""What a run is measured in that does not say so: one that is unfinished, or of long ago."""


@dataclass(frozen=True)
class RunFacts:
    """A run, or a score, as its folder tells.

    Attributes:
        name: the folder's.
        path: the folder.
        config: its options.
        measures: its metrics.
        events: its log, without lines that are damaged.
        arms: results by arm.
        start: results of the learner that all arms start from.
        compared: comparisons with the baseline, by arm and metric.
        environment: versions, device and so on.
        data: what was trained and measured on.
        score: a counterfactual score, as in score.json; None where there is none.
        gaps: lines on what is missing or damaged.
    """

    name: str
    path: Path
    config: Mapping[str, Any]
    measures: Measures
    events: Sequence[Event]
    arms: Mapping[str, Mapping[str, Any]]
    start: Mapping[str, Any]
    compared: Mapping[str, Any]
    environment: Mapping[str, Any]
    data: Mapping[str, Any]
    score: Mapping[str, Any] | None
    gaps: tuple[str, ...]


_RESULTS = (
    *("config", "data", "unit", "metrics", "arms", "start"),
    *("against_baseline", "probe", "foresight", "gates", "signal"),
)
"""What metrics.json holds beside the environment."""


@typed
def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run or a score."""
    there = ("config.toml", "metrics.json", "events.jsonl", "score.json")
    return any((folder / name).is_file() for name in there)


@typed
def read_facts(folder: Path) -> RunFacts:
    """Read a run's folder.

    Args:
        folder: the run's, or a score's.

    Raises:
        UserError: it is neither.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such run")
    if not is_run(folder):
        raise UserError(
            f"{folder} is no run: it holds no config.toml, metrics.json, events.jsonl or score.json"
        )
    gaps: list[str] = []
    metrics = _json(folder / "metrics.json", gaps)
    score = _score(folder, metrics, gaps)
    scored_alone = score is not None and not (folder / "events.jsonl").exists()
    config = _mapping(metrics, "config") or _toml(folder / "config.toml", gaps, scored_alone)
    events = _events(folder / "events.jsonl", gaps, scored_alone)
    arms = {k: v for k, v in _mapping(metrics, "arms").items() if isinstance(v, Mapping)}
    start = _mapping(metrics, "start")
    if metrics is None and not scored_alone:
        arms, start = _arms(folder, gaps), _json(folder / "start.json", gaps) or {}
        gaps.insert(0, _unfinished(folder, config, arms))
    return RunFacts(
        folder.resolve().name,
        folder,
        config,
        _measures(metrics, config, gaps),
        events,
        arms,
        start,
        _mapping(metrics, "against_baseline"),
        {k: v for k, v in (metrics or {}).items() if k not in _RESULTS},
        _mapping(metrics, "data"),
        score,
        tuple(gaps),
    )


def _json(path: Path, gaps: list[str]) -> dict[str, Any] | None:
    """A JSON object; None where the file is missing, or damaged, which is told."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it holds no object")
        return content
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        gaps.append(f"{path.name} is damaged ({error}) and left out")
        return None


def _mapping(content: Mapping[str, Any] | None, name: str) -> dict[str, Any]:
    found = (content or {}).get(name)
    return found if isinstance(found, dict) else {}


def _toml(path: Path, gaps: list[str], scored_alone: bool) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not scored_alone:
            gaps.append(f"{path.name} is missing: the configuration is not known")
    except (OSError, ValueError) as error:  # a TOML error is one
        gaps.append(f"{path.name} is damaged ({error}) and left out")
    return {}


def _events(path: Path, gaps: list[str], scored_alone: bool) -> list[Event]:
    """The events that can be read; a last line that is torn needs no word."""
    try:
        *lines, last = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        if not scored_alone:
            gaps.append(f"{path.name} is missing: there are no curves, maps or probes")
        return []
    except OSError as error:
        gaps.append(f"{path.name} cannot be read ({error.strerror}): no curves, maps or probes")
        return []
    found = [_event(line) for line in lines]
    bad = [str(number) for number, event in enumerate(found, 1) if event is None]
    if bad:
        listed = ", ".join(bad[:5]) + (", ..." if len(bad) > 5 else "")
        gaps.append(f"{path.name}: {len(bad)} damaged lines are left out ({listed})")
    return [event for event in (*found, _event(last)) if event is not None]


def _event(line: bytes) -> Event | None:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        return None
    whole = isinstance(event, dict) and all(isinstance(event.get(k), str) for k in ("kind", "arm"))
    return event if whole else None


def _arms(folder: Path, gaps: list[str]) -> dict[str, Mapping[str, Any]]:
    """Results of the arms that are finished, of a run that is not."""
    found = {path.stem: _json(path, gaps) for path in sorted(folder.glob("arms/*.json"))}
    order = {arm: place for place, arm in enumerate(ARMS)}
    arms = sorted((arm for arm in found if found[arm]), key=lambda arm: order.get(arm, len(order)))
    return {arm: content for arm in arms if (content := found[arm])}


def _unfinished(folder: Path, config: Mapping[str, Any], arms: Mapping[str, Any]) -> str:
    asked = config.get("arms")
    of = f" of {len(asked)}" if isinstance(asked, list) else ""
    return (
        f"not finished (no metrics.json that can be read): {len(arms)}{of} arms have results; "
        f"vfunc run --resume {folder} goes on with it"
    )


def _measures(
    metrics: Mapping[str, Any] | None, config: Mapping[str, Any], gaps: list[str]
) -> Measures:
    unit = _UNITS.get(str(config.get("modality")), "tokens")
    try:
        if metrics and "metrics" in metrics:
            return read_measures(metrics.get("unit"), metrics["metrics"])
    except (TypeError, ValueError) as error:
        gaps.append(f"metrics.json does not say what was measured ({error})")
    return Measures(unit, _METRICS[unit])


def _score(
    folder: Path, metrics: Mapping[str, Any] | None, gaps: list[str]
) -> dict[str, Any] | None:
    """The score in the folder itself, or one beside it that was measured with the same options."""
    if (folder / "score.json").exists():
        return _json(folder / "score.json", gaps)
    config = _mapping(metrics, "config")
    for asked in sorted(folder.resolve().parent.glob("*/asked.json")) if config else ():
        options = _json(asked, []) or {}
        shared = [name for name in options if name in config and name != "arms"]
        same = all(options[name] == config[name] for name in shared)
        if shared and same and (asked.parent / "score.json").exists():
            return _json(asked.parent / "score.json", gaps)
    return None
