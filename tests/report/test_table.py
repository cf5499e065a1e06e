from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from made_up_measures import LANGUAGE
from rich.console import Console

from vfunc.errors import UserError
from vfunc.report.arms_table import Against, ArmRow, arms_table
from vfunc.report.table import (
    ProbeRow,
    markdown,
    probe_table,
    si,
    told_among,
    write_text,
)


def row(arm, steps, tokens, rate, loss, solved=None, error=None, against=None) -> ArmRow:
    figures = {"loss": loss} | ({} if solved is None else {"pass_at_1": solved})
    compared = {} if against is None else {"pass_at_1": Against(*against)}
    errors = {} if error is None else {"pass_at_1": error}
    return ArmRow(arm, steps, tokens, rate, figures, errors, compared)


def table_of(rows: list[ArmRow], **how):
    return arms_table(rows, LANGUAGE, **how)


BASELINE = row("baseline", 300, 512_345, 9123.4, 0.06, 0.321, 0.0148)
VALUE = row("vpretraining", 300, 512_345, 7321.0, 0.04, 0.692, 0.0146, (0.371, 0.0171, 1e-9))
SMOOTH = row(
    "uniform_smoothing", 12_300, 1_512_345, 18800.0, 0.144, 0.313, 0.0149, (-0.008, 0.009, 0.45)
)
KNOWN = row("known_wrong", 300, 512_345, 9001.0, 0.02, 0.797, 0.0127, (0.476, 0.016, 1e-9))
PROBE = ProbeRow("sgd, small", 30, 0.00123, -0.0119, 0.994, None)


def rendered(table, width: int) -> list[str]:
    console = Console(width=width, no_color=True, record=True, file=io.StringIO())
    console.print(table)
    return console.export_text().splitlines()


def cells(table) -> dict[str, list[str]]:
    """Cells of a markdown table by the first cell of their row."""
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in rows}


def test_arms_table_holds_what_it_is_given() -> None:
    table = cells(table_of([BASELINE, VALUE, SMOOTH]))
    assert table["arm"] == [
        "steps",
        "tokens",
        "tokens per s",
        "held-out loss",
        "Pass@1 %",
        "against baseline",
    ]
    assert table["baseline"] == ["300", "512k", "9.1k", "0.0600", "32.1 ± 1.5", "–"]
    assert table["vpretraining"][4:] == ["69.2 ± 1.5", "+37.1 ± 1.7"]
    assert table["uniform_smoothing"] == [
        "12,300",
        "1.5M",
        "19k",
        "0.1440",
        "31.3 ± 1.5",
        "-0.8 ± 0.9 n.s.",
    ]


@pytest.mark.parametrize(("p_value", "marked"), [(0.0501, True), (0.0499, False), (None, False)])
def test_what_is_not_significant_says_so(p_value: float | None, marked: bool) -> None:
    table = cells(
        table_of([BASELINE, replace(VALUE, against={"pass_at_1": Against(0.371, 0.0171, p_value)})])
    )
    assert ("n.s." in table["vpretraining"][-1]) == marked


def test_the_share_of_the_way_to_known_wrong() -> None:
    rows = [BASELINE, VALUE, SMOOTH, KNOWN]
    by_loss = cells(table_of(rows))
    assert [by_loss[row.arm][-1] for row in rows] == ["0", "50", "-210", "100"]
    by_pass = cells(table_of(rows, share_of="pass_at_1"))
    assert [by_pass[row.arm][-1] for row in rows] == ["0", "78", "-2", "100"]
    assert "in held-out loss" in markdown(table_of(rows))
    assert "in Pass@1" in markdown(table_of(rows, share_of="pass_at_1"))
    for without in ([VALUE, KNOWN], [BASELINE, VALUE]):
        assert cells(table_of(without))["arm"][-1] == "against baseline"
    # No way to go: a share of nothing is not shown.
    assert "way %" not in cells(table_of([BASELINE, replace(KNOWN, figures={"loss": 0.06})]))["arm"]


def test_columns_without_figures_are_left_out() -> None:
    table = cells(table_of([row("baseline", 300, 5000, 900.0, 0.05)]))
    assert table == {
        "arm": ["steps", "tokens", "tokens per s", "held-out loss"],
        "---": ["---:"] * 4,
        "baseline": ["300", "5.0k", "900", "0.0500"],
    }
    mixed = cells(table_of([BASELINE, row("other", 1, 1, 1.0, 0.05)]))
    assert mixed["other"][-1] == "–"


@pytest.mark.parametrize("width", [80, 120])
def test_the_widest_table_fits_without_being_cut(width: int) -> None:
    lines = rendered(table_of([BASELINE, VALUE, SMOOTH, KNOWN]), width)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    for row in cells(table_of([BASELINE, VALUE, SMOOTH, KNOWN])).values():
        assert all(cell in text for cell in row if "± " in cell)
    assert "uniform_smoothing 12,300" in " ".join(text.split())


def test_probe_table() -> None:
    table = cells(probe_table([PROBE], unit="nat"))
    assert table["step"][1] == "predicted 10⁻³ nat"
    assert table["sgd, small"] == ["30", "+1.23", "-11.9", "0.994", "–"]
    assert cells(probe_table([PROBE], unit=""))["step"][1:3] == ["predicted 10⁻³", "realised 10⁻³"]


def test_markdown_is_a_github_table() -> None:
    text = markdown(table_of([replace(BASELINE, arm="a|b")]))
    lines = text.split("\n")
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert lines[2].startswith("| a\\|b | 300 |")
    assert lines[3] == ""
    assert lines[4].startswith("± standard error")
    assert text.endswith("\n")


def test_names_are_not_read_as_markup(tmp_path: Path) -> None:
    write_text([table_of([replace(BASELINE, arm="[red]mine")])], tmp_path / "table.txt")
    assert "[red]mine" in (tmp_path / "table.txt").read_text()


def test_write_text_is_plain(tmp_path: Path) -> None:
    write_text([table_of([BASELINE, VALUE])], tmp_path / "table.txt", width=80)
    text = (tmp_path / "table.txt").read_text(encoding="utf-8")
    assert "\x1b" not in text
    assert "69.2 ± 1.5" in text
    assert max(map(len, text.splitlines())) <= 80


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(UserError):
        table_of([])
    with pytest.raises(UserError):
        probe_table([], unit="nat")


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (950, "950"),
        (999.4, "999"),
        (999.7, "1.0k"),
        (9123, "9.1k"),
        (9960, "10k"),
        (123_400, "123k"),
        (999_600, "1.0M"),
        (1_234_567, "1.2M"),
        (2.5e9, "2.5G"),
        (-1500, "-1.5k"),
    ],
)
def test_si(number: float, text: str) -> None:
    assert si(number) == text


def test_the_told_arm_is_found_in_whatever_can_be_read_once():
    for told in ("known_wrong", "known_objects"):
        assert told_among(iter(["baseline", told, "vpretraining"])) == told
    assert told_among(iter(["baseline", "vpretraining"])) is None
