"""Tables and comparisons of a made-up vision learner: three metrics, two ways up."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from made_up_measures import LANGUAGE, VISION
from rich.console import Console

from vfunc.errors import UserError
from vfunc.report.against_baseline import baseline_table
from vfunc.report.arms_table import Against, ArmRow, arms_table
from vfunc.report.measures import arrow, name_of, read_measures, written
from vfunc.report.seed_figures import comparison_plot, comparison_table
from vfunc.report.seed_statistics import SeedRun, compare_over_seeds
from vfunc.report.table import markdown, p_text, write_text

BASE = ArmRow("baseline", 160, 5120, 512.0, {"loss": 1.5, "miou": 0.4, "rmse": 0.5, "linear": 0.8})
OTHER = ArmRow(
    "uniform_smoothing",
    160,
    5120,
    256.0,
    {"loss": 1.25, "miou": 0.45, "rmse": 0.625, "linear": 0.79},
    {"miou": 0.01, "linear": 0.02},
    {"miou": Against(0.06, 0.012, 0.04), "rmse": Against(0.1, 0.05, 0.3)},
)


def cells(table) -> list[list[str]]:
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def width(table) -> int:
    console = Console(width=200, no_color=True, record=True, file=io.StringIO())
    console.print(table)
    return max(len(line.rstrip()) for line in console.export_text().splitlines())


def test_words_for_metrics() -> None:
    assert [name_of(m) for m in LANGUAGE.metrics] == ["held-out loss", "Pass@1"]
    names = [name_of(m) for m in VISION.metrics]
    assert names == ["held-out loss", "mIoU", "RMSE", "linear accuracy"]
    assert [arrow(m) for m in VISION.metrics] == ["↓", "↑", "↓", "↑"]
    assert [VISION.unit_in_words(m) for m in VISION.metrics] == ["", "%", "m", "%"]
    assert LANGUAGE.unit_in_words(LANGUAGE.metrics[0]) == "nats per token"
    assert (VISION.loss_unit, LANGUAGE.loss_unit) == ("", "nat")
    assert (VISION.primary.name, LANGUAGE.primary.name) == ("linear", "pass_at_1")
    assert written(VISION.metric("miou"), 0.0345, "+") == "+3.5"
    assert written(VISION.metric("rmse"), -0.0344, "+") == "-0.034"
    with pytest.raises(UserError, match="no metric 'accuracy'; there are loss, miou, rmse, linear"):
        VISION.metric("accuracy")


@pytest.mark.parametrize(
    ("p", "text"), [(None, "–"), (1e-4, "<0.001"), (0.0499, "0.050"), (0.3, "0.300 n.s.")]
)
def test_p_values(p: float | None, text: str) -> None:
    assert p_text(p) == text


def test_a_column_for_each_metric_that_was_measured() -> None:
    head, _, base, other = cells(arms_table([BASE, OTHER], VISION))
    assert head == ["arm", "steps", "images", "images per s", "held-out loss", "mIoU %", "RMSE m", "linear accuracy %"]  # fmt: skip
    assert base == ["baseline", "160", "5.1k", "512", "1.5000", "40.0", "0.500", "80.0"]
    assert other[4:] == ["1.2500", "45.0 ± 1.0", "0.625", "79.0 ± 2.0"]
    assert "over pictures" in markdown(arms_table([BASE, OTHER], VISION))
    fewer = [replace(row, figures={"loss": 1.0, "rmse": 0.5}) for row in (BASE, OTHER)]
    head, _, base, other = cells(arms_table(fewer, VISION))
    assert head[4:] == ["held-out loss", "RMSE m", "against baseline"]
    assert (base[-1], other[-1]) == ("–", "+0.100 ± 0.050 n.s.")
    assert "mean per picture" in markdown(arms_table(fewer, VISION))
    lacking = replace(OTHER, figures={"loss": 1.0, "miou": 0.4})
    assert cells(arms_table([BASE, lacking], VISION))[3][-2:] == ["–", "–"]


def test_the_way_is_told_in_the_metric_asked_for() -> None:
    known = replace(BASE, arm="known_wrong", figures=BASE.figures | {"loss": 1.0, "rmse": 0.75})
    for share_of, way in (("loss", "50"), ("rmse", "50"), ("linear", None)):
        table = arms_table([BASE, OTHER, known], VISION, share_of=share_of)
        assert (cells(table)[0][-1] == "way %") == (way is not None)
        assert way is None or cells(table)[3][-1] == way
    assert "in RMSE" in markdown(arms_table([BASE, OTHER, known], VISION, share_of="rmse"))
    with pytest.raises(UserError, match="no metric"):
        arms_table([BASE], VISION, share_of="heldout_loss")


def test_tables_of_four_metrics_keep_to_80_columns(tmp_path) -> None:
    errors = dict.fromkeys(BASE.figures, 0.0123)
    against = dict.fromkeys(BASE.figures, Against(-0.123, 0.0456, 0.3))
    wide = replace(OTHER, arm="uniform_smoothing", steps=123_456, errors=errors, against=against)
    tables = [arms_table([BASE, wide], VISION), baseline_table([BASE, wide], VISION)]
    assert max(map(width, tables)) <= 80
    assert "±" not in "".join(cells(tables[0])[3])  # what leaves no room is left out
    assert "standard error" not in markdown(tables[0])
    write_text(tables, tmp_path / "table.txt", width=80)
    text = (tmp_path / "table.txt").read_text()
    assert "…" not in text and text.count("uniform_smoothing") == 5
    narrow = replace(wide, errors={"miou": 0.0123})
    assert "45.0 ± 1.2" in cells(arms_table([BASE, narrow], VISION))[3]


def test_against_the_baseline_in_every_metric() -> None:
    head, _, *rows = cells(baseline_table([BASE, OTHER, replace(OTHER, arm="own")], VISION))
    assert head == ["metric", "arm", "difference", "per picture", "p"]
    assert [row[0] for row in rows] == ["linear accuracy % ↑", "", "RMSE m ↓", "", "mIoU % ↑", "", "held-out loss ↓", ""]  # fmt: skip
    assert [row[1] for row in rows[:2]] == ["uniform_smoothing", "own"]
    assert rows[0][2:] == ["-1.0", "–", "–"]
    assert rows[2][2:] == ["+0.125", "+0.100 ± 0.050", "0.300 n.s."]
    assert rows[4][2:] == ["+5.0", "+6.0 ± 1.2", "0.040"]
    text = markdown(baseline_table([BASE, OTHER, replace(OTHER, arm="own")], VISION))
    assert "Holm over 2 arms" in text and "primary: linear accuracy" in text
    assert "Holm" not in markdown(baseline_table([BASE, OTHER], VISION))
    for rows in ([BASE], [OTHER], []):
        with pytest.raises(UserError, match="baseline"):
            baseline_table(rows, VISION)


def seeds(**arms: list[tuple[float, float, float]]) -> list[SeedRun]:
    names = ("loss", "miou", "rmse", "units_per_second")
    return [
        SeedRun("", n, {arm: dict(zip(names, (*rows[n], 100.0))) for arm, rows in arms.items()})
        for n in range(3)
    ]


RUNS = seeds(
    baseline=[(1.0, 0.40, 0.50), (1.1, 0.42, 0.52), (1.2, 0.43, 0.54)],
    vpretraining=[(0.9, 0.45, 0.49), (1.0, 0.44, 0.50), (1.3, 0.47, 0.55)],
    known_wrong=[(0.8, 0.39, 0.40), (0.9, 0.41, 0.42), (1.0, 0.42, 0.44)],
)


def test_better_means_what_the_metric_says() -> None:
    _, value, known = compare_over_seeds(RUNS, VISION)
    better = {name: m.difference.better for name, m in value.metrics.items()}
    assert better == {"rmse": 2, "miou": 3, "loss": 2}
    assert list(value.metrics) == ["rmse", "miou", "loss"]  # nothing has a linear accuracy
    # known_wrong is better in RMSE alone, and worse in mIoU
    assert known.metrics["rmse"].way == 1 and known.metrics["miou"].way is None
    way = (0.52 - np.mean([0.49, 0.50, 0.55])) / (0.52 - 0.42)
    assert value.metrics["rmse"].way == pytest.approx(way)


def test_tables_and_picture_over_seeds(tmp_path) -> None:
    arms = compare_over_seeds(RUNS, VISION)
    table = comparison_table(arms, VISION, "miou", primary=True)
    assert table.title == "mIoU, % (primary, 3 seeds)"
    head, _, base, value, _ = cells(table)
    assert head[-1] == "images/s ratio"
    assert base[1] == f"{100 * np.mean([0.40, 0.42, 0.43]):.1f} ± 3.8"
    assert value[2].startswith("+3.7 ± ") and value[4] == "3/3"
    assert "higher is better" in str(table.caption)
    table = comparison_table(arms, VISION, "rmse", primary=False)
    assert table.title == "RMSE, m (secondary, 3 seeds)"
    assert cells(table)[3][2].startswith("-0.007 ± ")
    assert "lower is better" in str(table.caption)
    comparison_plot(arms, VISION, "miou", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(
    ("unit", "metrics", "said"),
    [
        ({}, [], "the unit is {}"),
        ("tokens", "loss", "no list of objects"),
        ("tokens", [{"name": 5, "title": "x"}], "the name of a metric is 5"),
        ("tokens", [{"name": "loss", "title": "x", "scale": "1"}], "the scale of a metric is"),
        ("tokens", [{"name": "other", "title": "x"}], "the metric loss is missing"),
    ],
)
def test_measures_that_are_none_are_told(unit, metrics, said):
    with pytest.raises(ValueError, match=said):
        read_measures(unit, metrics)
