"""Makes the parts of a run's section of the page: tables, maps, probe, score, certification."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table
from rich.text import Text

from vfunc.errors import UserError
from vfunc.report.against_baseline import baseline_table
from vfunc.report.apart_table import apart_table, kept_together
from vfunc.report.arms_table import arms_table, judged
from vfunc.report.gates_table import gate_means, gates_table
from vfunc.report.map_events import map_file, map_title
from vfunc.report.page.chart import Chart, scatter_chart
from vfunc.report.page.run_facts import RunFacts
from vfunc.report.page.series import number
from vfunc.report.page.token_text import TokenMap, level_of, token_map_of
from vfunc.report.probe_events import probe_points, probe_row, probe_summaries, signals_of
from vfunc.report.result_rows import result_row, start_row
from vfunc.report.table import NONE, probe_table, signal_table

_PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what it says.
        number: whether it stands to the right.
        level: level of its colour on the scale of values, or None.
    """

    text: str
    number: bool = False
    level: int | None = None


@dataclass(frozen=True)
class PageTable:
    """A table of the page.

    Attributes:
        title: above it; may be empty.
        head: its head.
        rows: its cells; the first of a row names it.
        note: below it.
    """

    title: str
    head: Sequence[Cell]
    rows: Sequence[Sequence[Cell]]
    note: str = ""


@dataclass(frozen=True)
class Picture:
    """A PNG inside the page."""

    title: str
    data: str
    said: str


def results(run: RunFacts) -> list[PageTable]:
    """The arms side by side, and against the baseline where there are several metrics; gates."""
    rows = [
        result_row(arm, run.compared.get(name, {}), run.measures) for name, arm in run.arms.items()
    ]
    if not rows:
        return []
    start = [start_row(run.start, run.measures)] if run.start else []
    tables = [arms_table([*start, *rows], kept_together(run.measures))]
    if (benchmarks := apart_table([*start, *rows], run.measures)) is not None:
        tables.append(benchmarks)
    if len(judged(rows, run.measures)) > 1 and any(run.compared.values()):
        tables.append(baseline_table(rows, run.measures))
    if (opened := gates_table(gate_means(run.events))) is not None:
        tables.append(opened)
    return [_table(table) for table in tables]


def maps(run: RunFacts) -> list[TokenMap]:
    """Token value maps, of every arm that made one."""
    events = [e for e in run.events if e["kind"] == "value_map" and "tokens" in e]
    return [token_map_of(event) for event in events]


def pictures(run: RunFacts) -> Iterator[Picture]:
    """Pixel value maps, of every arm that made one.

    Raises:
        UserError: a picture is not there, or is none.
    """
    for event in run.events:
        if event["kind"] != "value_map" or "pixels" not in event:
            continue
        path = run.path / "plots" / map_file(event)
        if path.resolve().parent != (run.path / "plots").resolve():  # an arm's name is data
            raise UserError(f"{event['arm']!r} is no arm")
        content = path.read_bytes() if path.is_file() else b""
        if not content.startswith(_PNG):
            raise UserError(f"plots/{path.name} is missing or no PNG; the run draws it")
        yield Picture(
            map_title(event),
            base64.b64encode(content).decode("ascii"),
            "Rows of a picture, the view that the learner sees of it, the mask where there is one, "
            "and the value of its pixels: blue where more of the true pixels is predicted to lower "
            "the feedback loss, red where to raise it.",
        )


def probe_tables(run: RunFacts) -> list[PageTable]:
    """The one-step probe of every arm, and what g_down sees."""
    tables = []
    for arm, found in probe_summaries(run.events).items():
        if found:
            table = probe_table([probe_row(s) for s in found], unit=run.measures.loss_unit)
            table.title = arm
            tables.append(table)
    if seen := signals_of(run.events):
        table = signal_table(seen)
        table.title = "what g_down sees, halfway"
        tables.append(table)
    return [_table(table) for table in tables]


def probe_charts(run: RunFacts) -> list[Chart]:
    """Predicted against realised decreases, a chart for each kind of step."""
    unit = run.measures.loss_unit
    points = probe_points(run.events)
    return [scatter_chart(kind, *both, unit) for kind, both in points.items()]


def scores(run: RunFacts) -> list[PageTable]:
    """The counterfactual score on held-out text: a table for each setting."""
    if run.score is None:
        return []
    return [_score_table(setting) for setting in run.score["settings"]]


def certification(run: RunFacts) -> tuple[str, Sequence[str], PageTable | None] | None:
    """The verdict, notes and checks of the run's certification; None where it made none."""
    event = next((e for e in run.events if e["kind"] == "certification"), None)
    if event is None:
        return None
    head = ("checked", "verdict", "engine", "gap", "resolution", "note")
    rows = [
        [
            Cell(str(row.get("subject", ""))),
            Cell(str(row.get("verdict", ""))),
            Cell(str(row.get("engine") or "")),
            *(Cell(_figure(row.get(name)), True) for name in ("gap", "resolution")),
            Cell(str(row.get("note") or "")),
        ]
        for row in event.get("rows", ())
    ]
    table = PageTable("", [Cell(name, name in ("gap", "resolution")) for name in head], rows)
    notes = [str(note) for note in event.get("notes", ())]
    return f"{event['arm']}: {event['verdict']}", notes, table if rows else None


def configuration(runs: Sequence[RunFacts]) -> list[PageTable]:
    """Options, a column a run: where several differ in some, those come in a table of their own."""
    names = list(dict.fromkeys(name for run in runs for name in run.config))
    told = {name: [_said(run.config.get(name, "")) for run in runs] for name in names}
    differ = [name for name, cells in told.items() if len(set(cells)) > 1]
    head = [Cell("option"), *(Cell(run.name) for run in runs)]
    groups = {"differ": differ, "all": names} if len(runs) > 1 else {"all": names}
    return [
        PageTable(
            title, head, [[Cell(name), *(Cell(cell) for cell in told[name])] for name in group]
        )
        for title, group in groups.items()
        if group
    ]


def environment(runs: Sequence[RunFacts]) -> PageTable | None:
    """Versions, devices and data, a column a run."""
    flat = [_flat({**run.environment, "data": run.data}) for run in runs]
    names = list(dict.fromkeys(name for one in flat for name in one))
    if not names:
        return None
    head = [Cell("of the run"), *(Cell(run.name) for run in runs)]
    rows = [[Cell(name), *(Cell(one.get(name, "")) for one in flat)] for name in names]
    return PageTable("", head, rows)


def _score_table(setting: Any) -> PageTable:
    scored = [
        s for s in setting["scores"] if s["measure"] == "test" and s.get("share") is None
    ]  # of tasks at all distances, on held-out text
    horizons = sorted({s["horizon"] for s in scored})
    by_row: dict[tuple[str, str], dict[int, Any]] = {}
    for s in scored:
        by_row.setdefault((str(s["row"]), str(s["reading"])), {})[s["horizon"]] = s["agreement"]
    rows = []
    for (row, reading), at in by_row.items():
        cells = [_agreement(at.get(h)) for h in horizons]
        last = at.get(horizons[-1])
        regret = NONE if last is None else _figure(last["regret"]["value"])
        rows.append([Cell(row), Cell(reading), *cells, Cell(regret, True)])
    return PageTable(
        str(setting.get("setting") or ""),
        [
            Cell("estimator"),
            Cell("read off"),
            *(Cell(f"H = {h}", True) for h in horizons),
            Cell("regret", True),
        ],
        rows,
        "Spearman's correlation of predicted and realised effect of a task on the held-out loss "
        "after H learner steps, with 95 % bootstrap intervals; regret of picking the best-rated "
        "task over that of a blind pick, at the last H: above 1 is worse than blind.",
    )


def _agreement(found: Mapping[str, Any] | None) -> Cell:
    if found is None or number(found["spearman"]["value"]) is None:
        return Cell(NONE, True)
    one = found["spearman"]
    text = f"{one['value']:.2f}".replace("-", "−")
    if number(one.get("low")) is not None and number(one.get("high")) is not None:
        text += f" ({one['low']:.2f} to {one['high']:.2f})".replace("-", "−")
    return Cell(text, True, level_of(one["value"], 1.0))


def _table(table: Table) -> PageTable:
    """A table for the terminal as one of the page."""
    columns = table.columns
    right = [column.justify == "right" for column in columns]
    head = [Cell(_plain(column.header), r) for column, r in zip(columns, right, strict=True)]
    cells = [
        [Cell(_plain(cell), r) for cell in c.cells] for c, r in zip(columns, right, strict=True)
    ]
    rows = [list(row) for row in zip(*cells, strict=True)]
    title = "" if table.title is None else _plain(table.title)
    return PageTable(title, head, rows, "" if table.caption is None else _plain(table.caption))


def _plain(cell: object) -> str:
    return (cell.plain if isinstance(cell, Text) else str(cell)).replace("\n", " ")


def _figure(value: Any) -> str:
    known = number(value)
    return NONE if known is None else f"{known:.3g}".replace("-", "−")


def _said(value: Any) -> str:
    """An option's value."""
    if value is None:
        return "default"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _flat(content: Mapping[str, Any], above: str = "") -> dict[str, str]:
    """Nested names in one: `versions torch`."""
    found: dict[str, str] = {}
    for name, value in content.items():
        path = f"{above} {name}".strip()
        if isinstance(value, Mapping):
            found |= _flat(value, path)
        elif value is not None:
            found[path] = _said(value)
    return found
