"""Writes a score: score.json, score.md and score.png."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from vfunc.studies.score.kinds_table import kinds_table
from vfunc.studies.score.rank_agreement import Figure
from vfunc.studies.score.score_figure import draw
from vfunc.studies.score.scores import OTHER, SAME, Scored, distances, left_out, scored
from vfunc.studies.score_command import ScoreOptions

State = Mapping[str, Any]
ON = {
    "test": "held-out loss",
    "used": "the feedback that estimators see",
    "other": "other feedback",
}
HURTS = 0.1
"""How far a lookahead's score at its own horizon has to fall below a shorter one's to be told."""
ROUGH = 0.5
"""Metasmoothness below which finite moves say little about further ones."""


def write_score(
    measured: Sequence[tuple[str, Sequence[State]]],
    options: ScoreOptions,
    command: str,
    folder: Path,
    console: Console,
) -> None:
    """Score what was measured, write the files and show the first tables.

    Args:
        measured: the setting's label, and its states.
        options: what was asked for.
        command: the whole command line.
        folder: where the files go.
        console: where the tables are shown.
    """
    found = [(label, states, scored(states, options.resamples)) for label, states in measured]
    plain = [
        {"setting": label, "scores": [one.as_json() for one in scores], "states": states}
        for label, states, scores in found
    ]
    text = json.dumps({"command": command, "settings": plain}, indent=1)
    (folder / "score.json").write_text(text, encoding="utf-8")
    pages = [_page(label, states, scores) for label, states, scores in found]
    if len(found) > 1:
        pages.insert(0, _swept([(label, scores) for label, _, scores in found]))
    head = f"# Counterfactual score\n\n```\n{command}\n```\n\n"
    whole = head + "\n\n".join(pages) + "\n"
    (folder / "score.md").write_text(whole, encoding="utf-8")
    draw([(label, scores) for label, _, scores in found], folder / "score.png")
    shown = pages[0].partition("\n### More")[0].rstrip() + f"\n\n{folder / 'score.md'}"
    console.print(shown, soft_wrap=True, markup=False, highlight=False)


def _page(label: str, states: Sequence[State], scores: Sequence[Scored]) -> str:
    """All tables of one setting."""
    tasks = sum(len(state["tasks"]) for state in states)
    lost = left_out(states)
    steps, s = ", ".join(str(state["step"]) for state in states), "s" * (len(states) > 1)
    parts = [
        f"## {label}\n" if label else "",
        f"{tasks} tasks at {len(states)} state{s} (after {steps} steps). Spearman's correlation of "
        "predicted and realised effect on the held-out loss after H learner steps, with 95 % "
        "bootstrap intervals over states and tasks; regret of picking the best-rated task, over "
        "that of a blind pick, at the last H (above 1 is worse than blind). Cost is over a plain "
        f"learner step.{_lost(lost)}{_past_end(states)}{_of_commits(states)}\n",
        _main_table(states, scores),
        "\n" + "\n".join(horizon_remarks(states, scores)),
        "\n### More\n",
        *(f"\n{_measure_table(states, scores, measure)}" for measure in ("used", "other")),
        f"\n{_distance_table(states, scores)}",
        f"\n{_last_table(states, scores)}",
        f"\n{_kinds(states)}",
        f"\n{_smoothness_table(states)}",
        _missing(states),
    ]
    return "\n".join(part for part in parts if part)


def _lost(count: int) -> str:
    return f" {count} tasks end in losses that are not finite, and are left out." if count else ""


def _past_end(states: Sequence[State]) -> str:
    found = [(s["step"], s["past_end"]) for s in states if s.get("past_end")]
    told = [f"after {step} steps by H = {', '.join(map(str, past))}" for step, past in found]
    return f" Past the budget's end, at its last step size: {'; '.join(told)}." if told else ""


def _of_commits(states: Sequence[State]) -> str:
    """Says so where the states were not all measured by the same code."""
    made = [s.get("git_commit") for s in states]
    if len(set(made)) == 1:
        return ""
    told = [
        f"after {s['step']} steps {of or 'unknown'}" for s, of in zip(states, made, strict=True)
    ]
    return f" The states were measured by different code, at commits: {'; '.join(told)}."


def _main_table(states: Sequence[State], scores: Sequence[Scored]) -> str:
    horizons = states[0]["horizons"]
    head = ["estimator", "read off", *(f"H = {h}" for h in horizons), "regret"]
    head += ["time", "memory", "passes"]
    rows = []
    for row, reading in _order(scores):
        at = {s.horizon: s.agreement for s in scores if _is(s, row, reading, "test")}
        if not at:
            continue
        cells = [_span(at[h].spearman) if h in at else "" for h in horizons]
        last = at.get(horizons[-1])
        regret = "" if last is None else f"{last.regret.value:.2f}"
        rows.append([_named(row), reading, *cells, regret, *_cost(states, row)])
    return _markdown(head, rows)


def _measure_table(states: Sequence[State], scores: Sequence[Scored], measure: str) -> str:
    horizons = states[0]["horizons"]
    rows = []
    for row, reading in _order(scores):
        at = {s.horizon: s.agreement for s in scores if _is(s, row, reading, measure)}
        if at:
            cells = [_span(at[h].spearman) if h in at else "" for h in horizons]
            rows.append([_named(row), reading, *cells])
    head = ["estimator", "read off", *(f"H = {h}" for h in horizons)]
    return f"Spearman's correlation with the effect on {ON[measure]}:\n\n{_markdown(head, rows)}"


def _distance_table(states: Sequence[State], scores: Sequence[Scored]) -> str:
    """Scores of near and far tasks apart."""
    columns = [(h, share) for h in states[0]["horizons"] for share in distances(states)]
    if not columns:
        return ""
    rows = []
    for row, reading in _order(scores):
        at = {
            (one.horizon, one.share): f"{one.agreement.spearman.value:.2f}"
            for one in scores
            if _is(one, row, reading, "test", one.share)
        }
        if any(column in at for column in columns):
            rows.append([_named(row), reading, *(at.get(column, "") for column in columns)])
    head = ["estimator", "read off", *(f"H = {h}, {share:g}" for h, share in columns)]
    said = "Spearman's correlation with the effect on the held-out loss, by the share of a task:"
    return f"{said}\n\n{_markdown(head, rows)}"


def _last_table(states: Sequence[State], scores: Sequence[Scored]) -> str:
    tables = []
    for horizon in dict.fromkeys((states[0]["horizons"][0], states[0]["horizons"][-1])):
        rows = []
        for row, reading in _order(scores):
            for one in scores:
                if _is(one, row, reading, "test") and one.horizon == horizon:
                    a = one.agreement
                    # a cosine and a random direction have no unit of the loss
                    unitless = row.startswith("random") or ("cosine" in row and reading != "value")
                    slope = "" if unitless or row == "zero" else _span(a.slope, 3)
                    cells = [_span(a.pearson), slope, _span(a.regret), f"{a.lost.value:.4f}"]
                    rows.append([_named(row), reading, *cells])
        head = ["estimator", "read off", "Pearson", "slope", "regret", "lost, nats"]
        tables.append(f"Held-out loss, H = {horizon}:\n\n{_markdown(head, rows)}")
    return "\n\n".join(tables)


def _kinds(states: Sequence[State]) -> str:
    head, rows = kinds_table(states)
    said = (
        "How much further the held-out loss falls by tasks of each kind and share than on the "
        "batches as they are, in thousandths (mean over states, least to most):"
    )
    return f"{said}\n\n{_markdown(head, rows)}"


def _smoothness_table(states: Sequence[State]) -> str:
    if states[0]["smoothness"] is None:
        return ""
    head = ["metasmoothness, at H =", *map(str, states[0]["horizons"])]
    rows = [
        [
            f"{what}, after {state['step']} steps",
            *("" if s is None else f"{s:.3f}" for s in state["smoothness"][key]),
        ]
        for key, what in (("parameters", "parameters"), ("outcome", "loss on the feedback used"))
        for state in states
    ]
    return _markdown(head, rows)


def horizon_remarks(states: Sequence[State], scores: Sequence[Scored]) -> list[str]:
    """Where looking further ahead hurts, in words: by the scores, and by metasmoothness.

    Args:
        states: what was measured.
        scores: and what it comes to.
    """
    found = []
    for horizon in states[0]["horizons"]:
        smooth = [
            state["smoothness"]["parameters"][states[0]["horizons"].index(horizon)]
            for state in states
            if state["smoothness"] is not None
        ]
        smooth = [one for one in smooth if one is not None]
        said = f"H = {horizon}:"
        if smooth:
            mean = statistics.mean(smooth)
            rough = "; a derivative says little about finite moves here" if mean < ROUGH else ""
            said += f" metasmoothness {mean:.3f}{rough}."
        for reading in ("value", "slope"):
            ahead = _unrolled(scores, horizon, reading)
            own, shorter = ahead.get(horizon), {k: f for k, f in ahead.items() if k < horizon}
            if own is None or not shorter:
                continue
            best = max(shorter, key=lambda k: shorter[k].value)
            hurts = own.value < shorter[best].value - HURTS
            word = "looking ahead that far hurts" if hurts else "no worse than a shorter lookahead"
            said += (
                f" By its {reading}, unrolled K = {horizon} scores {own.value:.2f}, K = {best} "
                f"{shorter[best].value:.2f}: {word}."
            )
        found.append(f"- {said}")
    return found


def _unrolled(scores: Sequence[Scored], horizon: int, reading: str) -> dict[int, Figure]:
    """Scores of whole lookaheads by their number of steps."""
    start = "unrolled lookahead_steps="
    return {
        int(one.row.removeprefix(start)): one.agreement.spearman
        for one in scores
        if one.row.startswith(start)
        and one.row.removeprefix(start).isdigit()
        and _is(one, one.row, reading, "test")
        and one.horizon == horizon
    }


def _swept(settings: Sequence[tuple[str, Sequence[Scored]]]) -> str:
    """How the score moves with the option that is swept."""
    horizons = list(dict.fromkeys(one.horizon for one in settings[0][1]))
    tables = []
    for horizon in horizons:
        rows = []
        for row, reading in _order([one for _, scores in settings for one in scores]):
            cells = []
            for _, scores in settings:
                at = [s for s in scores if _is(s, row, reading, "test") and s.horizon == horizon]
                cells.append(_span(at[0].agreement.spearman) if at else "")
            if any(cells):
                rows.append([_named(row), reading, *cells])
        head = ["estimator", "read off", *(label for label, _ in settings)]
        said = f"Spearman's correlation with the effect on the held-out loss, H = {horizon}:"
        tables.append(f"{said}\n\n{_markdown(head, rows)}")
    return "\n\n".join(tables)


def _missing(states: Sequence[State]) -> str:
    told = dict.fromkeys(
        f"- {row}, after {state['step']} steps: {why}"
        for state in states
        for row, why in state["missing"].items()
    )
    return "\nWithout an estimate:\n\n" + "\n".join(told) if told else ""


def _order(scores: Sequence[Scored]) -> list[tuple[str, str]]:
    """Rows in the order of the tables: floor, estimators, ceiling."""
    named = dict.fromkeys((one.row, one.reading) for one in scores)
    return sorted(named, key=lambda name: name[0] in (SAME, OTHER))


def _is(one: Scored, row: str, reading: str, measure: str, share: float | None = None) -> bool:
    return (one.row, one.reading, one.measure, one.share) == (row, reading, measure, share)


def _named(row: str) -> str:
    if row in (SAME, OTHER):
        return f"*{row}* (ceiling)"
    return "`zero` (floor)" if row == "zero" else f"`{row}`"


def _cost(states: Sequence[State], row: str) -> list[str]:
    known = [state["cost"][row] for state in states if row in state["cost"]]
    if not known:
        return ["", "", ""]
    seconds = statistics.median(one["seconds"] for one in known)
    memory = next((f"{one['memory']:.1f}" for one in known if one["memory"] is not None), "")
    letters = zip(known[0]["passes"], "FBT", strict=True)
    return [f"{seconds:.1f}", memory, " ".join(f"{n}{l}" for n, l in letters if n is not None)]


def _span(figure: Figure, digits: int = 2) -> str:
    return f"{figure.value:.{digits}f} ({figure.low:.{digits}f} to {figure.high:.{digits}f})"


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])
