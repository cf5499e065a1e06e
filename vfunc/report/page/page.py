"""Builds and writes the page of one run, or of several side by side.

It is one file: style, script, drawings and pictures are inside, and its policy allows it to fetch
nothing and to run no other script. All that comes from runs is escaped where the template puts it.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup

from vfunc.errors import UserError
from vfunc.printable import one_line, printable
from vfunc.report.page import sections
from vfunc.report.page.chart import DASHES, Chart, curve_chart, mark_of
from vfunc.report.page.run_facts import RunFacts, read_facts
from vfunc.report.page.sections import PageTable, Picture
from vfunc.report.page.series import Figure, curves_of, figures_of
from vfunc.report.page.themes import LEVELS, rules
from vfunc.report.page.token_text import TokenMap
from vfunc.typecheck import typed

NAME = "report.html"
GENERATOR = '<meta name="generator" content="vfunc report">'
"""How a page is known; nothing else is replaced."""

_TEMPLATES = Path(__file__).with_name("templates")
_DAMAGE = (UserError, LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError)
"""What reading a file raises that does not hold what it should."""

_Part = TypeVar("_Part")


@dataclass(frozen=True)
class RunSection:
    """What the page says of one run alone.

    Attributes:
        facts: what was read.
        gaps: lines on what is missing.
        results: tables of its arms.
        maps: token value maps.
        pictures: pixel value maps.
        probes: tables of the probe.
        scatters: charts of the probe.
        scores: tables of the counterfactual score.
        certified: verdict, notes and checks, or None.
    """

    facts: RunFacts
    gaps: Sequence[str]
    results: Sequence[PageTable]
    maps: Sequence[TokenMap]
    pictures: Sequence[Picture]
    probes: Sequence[PageTable]
    scatters: Sequence[Chart]
    scores: Sequence[PageTable]
    certified: Any


@typed
def write_page(folders: Sequence[Path], output: Path) -> tuple[str, ...]:
    """Write the page of runs, whole or not at all.

    Args:
        folders: the runs'; scores have a section too.
        output: the file; a page that is there is replaced.

    Returns:
        Lines on what the page could not show.

    Raises:
        UserError: one is no run, or the file is there and no page.
        OSError: it cannot be written.
    """
    if output.exists() and not _is_page(output):
        raise UserError(f"{output} is there and no report; name another file")
    text, gaps = page_of(folders)
    handle, temporary = tempfile.mkstemp(dir=output.parent, prefix=f".{output.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)  # as any other file of a run
        os.replace(temporary, output)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return gaps


@typed
def page_of(folders: Sequence[Path]) -> tuple[str, tuple[str, ...]]:
    """The page of runs as text, and lines on what it could not show.

    Raises:
        UserError: one is no run.
    """
    runs = _named_apart([read_facts(folder) for folder in folders])
    made = [_section(run) for run in runs]
    gaps: list[str] = []
    charts = _charts(runs, gaps)
    arms = _arms(runs)
    style = _read("style.css") + rules(arms)
    script = _read("script.js")
    shared = _tried("configuration", lambda: sections.configuration(runs), gaps, [])
    around = _tried("environment", lambda: sections.environment(runs), gaps, None)
    text = (
        _environment()
        .get_template("report.html.j2")
        .render(
            generator=Markup(GENERATOR),  # a constant
            title=", ".join(run.name for run in runs),
            style=Markup(style),  # of this package alone, see `rules`
            script=Markup(script),
            policy=_policy(style, script),
            runs=made,
            gaps=gaps,
            charts=charts,
            classes={arm: f"c{place}" for place, arm in enumerate(arms)},
            marks={arm: mark_of(arm) for arm in arms},
            several=len(runs) > 1,
            dashes=[DASHES[place % len(DASHES)] for place in range(len(runs))],
            configuration=shared,
            environment=around,
            levels=range(-LEVELS, LEVELS + 1),
        )
    )
    told = [f"{one.facts.name}: {gap}" for one in made for gap in one.gaps] + gaps
    return text, tuple(one_line(line) for line in told)


def _arms(runs: Sequence[RunFacts]) -> list[str]:
    """Every arm of the runs, in the order in which they were asked for."""
    asked = [run.config.get("arms") for run in runs]
    names = [str(a) for arms in asked if isinstance(arms, list) for a in arms]
    seen = [[*run.arms, *(e["arm"] for e in run.events)] for run in runs]
    return list(dict.fromkeys([*names, *(arm for arms in seen for arm in arms)]))


def _section(run: RunFacts) -> RunSection:
    gaps = list(run.gaps)
    return RunSection(
        facts=run,
        results=_tried("arms table", lambda: sections.results(run), gaps, []),
        maps=_tried("token value map", lambda: sections.maps(run), gaps, []),
        pictures=_tried("pixel value map", lambda: list(sections.pictures(run)), gaps, []),
        probes=_tried("probe", lambda: sections.probe_tables(run), gaps, []),
        scatters=_tried("probe's points", lambda: sections.probe_charts(run), gaps, []),
        scores=_tried("counterfactual score", lambda: sections.scores(run), gaps, []),
        certified=_tried("certification", lambda: sections.certification(run), gaps, None),
        gaps=gaps,
    )


def _charts(runs: Sequence[RunFacts], gaps: list[str]) -> list[Chart]:
    """The curves of all runs, a chart for each figure that some arm was followed in."""
    figures: dict[tuple[str, str], tuple[Figure, list[RunFacts]]] = {}
    for run in runs:
        for figure in figures_of(run.measures):
            figures.setdefault((figure.key, figure.unit), (figure, []))[1].append(run)
    names = [run.name for run in runs]

    def drawn(figure: Figure, of: Sequence[RunFacts]) -> list[Chart]:
        curves = curves_of(figure, of)
        # a metric that is measured at the end alone has no curve
        followed = figure.kind == "step" or any(len(curve.x) > 1 for curve in curves)
        return [curve_chart(figure, curves, names)] if curves and followed else []

    made = [
        _tried(f"curve of {figure.title}", functools.partial(drawn, figure, of), gaps, [])
        for figure, of in figures.values()
    ]
    return [chart for charts in made for chart in charts]


def _tried(what: str, make: Callable[[], _Part], gaps: list[str], otherwise: _Part) -> _Part:
    """A part of the page, or a line on why it is missing: a damaged file spoils its part alone."""
    try:
        return make()
    except _DAMAGE as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        gaps.append(f"the {what} cannot be shown ({kind}{error})")
        return otherwise


def _named_apart(runs: list[RunFacts]) -> list[RunFacts]:
    """The same runs; those of one name are called by their paths."""
    names = [run.name for run in runs]
    return [replace(run, name=str(run.path)) if names.count(run.name) > 1 else run for run in runs]


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_shown,
    )


def _shown(value: Any) -> Any:
    """Text with control characters, and what turns its direction, as escapes."""
    return printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _policy(style: str, script: str) -> Markup:
    """A policy under which the page's own style and script work, and nothing else."""
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (style, script)
    ]
    return Markup(
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        "style-src 'sha256-{}'; script-src 'sha256-{}'"
    ).format(*digests)


def _read(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def _is_page(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(2000)
    return not head or GENERATOR.encode() in head
