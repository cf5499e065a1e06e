from __future__ import annotations

import io
import math
from dataclasses import replace

import numpy as np
import pytest
from made_up_measures import LANGUAGE
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from rich.console import Console
from scipy import stats

from vfunc.errors import UserError
from vfunc.report import seed_figures as comparison_figures
from vfunc.report import seed_statistics as comparison
from vfunc.report.drawing import arm_style
from vfunc.report.seed_statistics import SeedRun
from vfunc.report.table import markdown


def compare_over_seeds(runs):
    return comparison.compare_over_seeds(runs, LANGUAGE)


def comparison_table(arms, metric: str, **how):
    return comparison_figures.comparison_table(arms, LANGUAGE, metric, **how)


def comparison_plot(arms, primary: str, path) -> None:
    comparison_figures.comparison_plot(arms, LANGUAGE, primary, path)


def figures(loss: float, solved: float | None = None, speed: float = 100.0) -> dict[str, float]:
    found = {"loss": loss, "units_per_second": speed}
    return found if solved is None else {**found, "pass_at_1": solved}


def runs_of(setting: str = "", **arms: list[tuple]) -> list[SeedRun]:
    """Runs with seeds 0, 1, ... of arms whose figures are given seed by seed."""
    count = len(next(iter(arms.values())))
    return [
        SeedRun(setting, seed, {arm: figures(*rows[seed]) for arm, rows in arms.items()})
        for seed in range(count)
    ]


BASE = [(0.10, 0.0), (0.12, 0.0), (0.14, 1.0)]
VALUE = [(0.08, 1.0, 50.0), (0.11, 0.0, 25.0), (0.12, 1.0, 75.0)]
KNOWN = [(0.06, 1.0), (0.07, 1.0), (0.08, 1.0)]


def by_arm(runs):
    return {(one.setting, one.arm): one for one in compare_over_seeds(runs)}


def table_of(arms, metric: str, primary: bool = True) -> dict[str, list[str]]:
    """Cells by the first cell of their row; `caption` and `title` besides."""
    table = comparison_table(arms, metric, primary=primary)
    lines = [line for line in markdown(table).splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {"title": table.title, "caption": str(table.caption)} | {r[0]: r[1:] for r in rows}


def test_mean_interval_and_paired_t_by_hand() -> None:
    arm = by_arm(runs_of(baseline=BASE, vpretraining=VALUE))["", "vpretraining"]
    loss = arm.metrics["loss"]
    assert arm.seeds == (0, 1, 2)
    assert loss.values == (0.08, 0.11, 0.12)
    assert loss.mean == pytest.approx(0.31 / 3)
    reach = 4.302653 * np.std(loss.values, ddof=1) / math.sqrt(3)
    assert loss.interval == pytest.approx((loss.mean - reach, loss.mean + reach), rel=1e-6)
    # differences -.02, -.01, -.02: standard error 1/300, t = -5; for 2 degrees of freedom the
    # two-sided p value is 1 - t / sqrt(t^2 + 2)
    d = loss.difference
    assert d.mean == pytest.approx(-0.05 / 3)
    assert d.interval == pytest.approx((d.mean - 4.302653 / 300, d.mean + 4.302653 / 300), rel=1e-5)
    assert d.p_value == pytest.approx(1 - 5 / math.sqrt(27))
    assert d.p_value_holm == d.p_value
    assert (d.better, d.seeds) == (3, 3)


def test_shares_of_0_and_1_are_compared_by_t_as_well() -> None:
    arm = by_arm(runs_of(baseline=BASE, vpretraining=VALUE))["", "vpretraining"]
    d = arm.metrics["pass_at_1"].difference
    assert d.p_value == pytest.approx(1 - 1 / math.sqrt(3))
    assert (d.mean, d.better) == (pytest.approx(1 / 3), 1)


def test_the_baseline_is_compared_with_nothing() -> None:
    baseline = by_arm(runs_of(baseline=BASE, vpretraining=VALUE))["", "baseline"]
    assert baseline.metrics["loss"].difference is None
    assert baseline.speed.mean == 1


def test_speed_is_relative_to_the_same_run() -> None:
    runs = runs_of(baseline=[(0.1, 0.1, 100.0), (0.1, 0.1, 10.0)], own=[(0.1, 0.1, 50.0)] * 2)
    assert by_arm(runs)["", "own"].speed.values == (0.5, 5.0)


def test_holm_runs_over_arms_and_settings_within_a_metric() -> None:
    other = [(0.11, 0.5), (0.12, 0.0), (0.17, 0.5)]
    arms = compare_over_seeds(
        runs_of("a", baseline=BASE, vpretraining=VALUE, known_wrong=KNOWN)
        + runs_of("b", baseline=BASE, vpretraining=other)
    )
    for metric in ("loss", "pass_at_1"):
        found = [d for arm in arms if (d := arm.metrics[metric].difference)]
        assert len(found) == 3
        p = [d.p_value for d in found]
        adjusted = [0.0] * 3
        largest = 0.0
        for rank, index in enumerate(np.argsort(p, kind="stable")):
            largest = max(largest, min(1.0, (3 - rank) * p[index]))
            adjusted[index] = largest
        assert [d.p_value_holm for d in found] == pytest.approx(adjusted)
        assert max(d.p_value_holm for d in found) > max(p) or max(p) == 1 or metric == "loss"
    losses = [arm.metrics["loss"].difference for arm in arms if arm.arm == "vpretraining"]
    assert losses[0].p_value_holm == pytest.approx(2 * losses[0].p_value)


def test_equal_differences_have_no_p_value_but_count_in_the_family() -> None:
    shifted = [(loss - 0.01, solved) for loss, solved in BASE]
    arms = by_arm(runs_of(baseline=BASE, own=shifted, vpretraining=VALUE))
    d = arms["", "own"].metrics["loss"].difference
    assert (d.p_value, d.p_value_holm, d.better) == (None, None, 3)
    d = arms["", "vpretraining"].metrics["loss"].difference
    assert d.p_value_holm == pytest.approx(2 * d.p_value)


def test_an_arm_that_equals_the_baseline_is_not_significant() -> None:
    d = by_arm(runs_of(baseline=BASE, own=BASE))["", "own"].metrics["loss"].difference
    assert (d.mean, d.p_value, d.better) == (0, 1, 0)


def test_one_seed_gives_neither_interval_nor_test() -> None:
    arms = compare_over_seeds(runs_of(baseline=BASE[:1], vpretraining=VALUE[:1]))
    loss = arms[1].metrics["loss"]
    assert loss.interval is None
    assert (loss.difference.interval, loss.difference.p_value) == (None, None)
    assert loss.difference.p_value_holm is None
    table = table_of(arms, "loss")
    assert table["vpretraining"] == ["0.0800", "-0.0200", "–", "1/1", "0.50"]
    assert "one seed: no interval over seeds, and no test" in table["caption"]
    assert "95 %" not in table["caption"]


def test_the_way_from_baseline_to_known_wrong() -> None:
    arms = by_arm(runs_of(baseline=BASE, vpretraining=VALUE, known_wrong=KNOWN))
    # means .12, .31/3 and .07; in Pass@1 1/3, 2/3 and 1
    assert arms["", "vpretraining"].metrics["loss"].way == pytest.approx(1 / 3)
    assert arms["", "vpretraining"].metrics["pass_at_1"].way == pytest.approx(1 / 2)
    assert [arms["", a].metrics["loss"].way for a in ("baseline", "known_wrong")] == [0, 1]


def test_there_is_no_way_to_a_known_wrong_that_is_no_better() -> None:
    worse = [(0.2, 0.0)] * 3
    arms = by_arm(runs_of(baseline=BASE, vpretraining=VALUE, known_wrong=worse))
    metrics = arms["", "vpretraining"].metrics
    assert (metrics["loss"].way, metrics["pass_at_1"].way) == (None, None)


def test_the_order_of_runs_does_not_matter() -> None:
    runs = runs_of(baseline=BASE, vpretraining=VALUE)
    assert compare_over_seeds(runs[::-1]) == compare_over_seeds(runs)


def test_pairs_are_those_seeds_that_have_both_arms() -> None:
    runs = runs_of(baseline=BASE, vpretraining=VALUE)
    runs[0] = replace(runs[0], arms={"vpretraining": runs[0].arms["vpretraining"]})
    arms = compare_over_seeds(runs)
    arm = next(one for one in arms if one.arm == "vpretraining")
    assert (len(arm.seeds), arm.metrics["loss"].difference.seeds) == (3, 2)
    table = table_of(arms, "loss")
    assert table["arm"][0] == "seeds"
    assert (table["vpretraining"][0], table["baseline"][0]) == ("3", "2")


def test_a_metric_that_some_arm_lacks_compares_nothing() -> None:
    runs = runs_of(baseline=BASE, own=[(0.1,), (0.2,), (0.3,)])
    assert [m.name for m in comparison.common_metrics(runs, LANGUAGE)] == ["loss"]
    assert [list(arm.metrics) for arm in compare_over_seeds(runs)] == [["loss"]] * 2


def test_what_cannot_be_compared_is_refused() -> None:
    run = runs_of("lr=1", baseline=BASE)[0]
    with pytest.raises(UserError, match="no runs"):
        compare_over_seeds([])
    with pytest.raises(UserError, match="seed 0 of lr=1 is there twice"):
        compare_over_seeds([run, run])
    with pytest.raises(UserError, match="no metric is in all"):
        compare_over_seeds([SeedRun("", 0, {"baseline": {"units_per_second": 1.0}})])
    for show in (comparison_table, comparison_plot):
        more = {"primary": True} if show is comparison_table else {"path": "x"}
        with pytest.raises(UserError, match="no arms"):
            show([], "loss", **more)
        with pytest.raises(UserError, match="pass_at_1 is not in all"):
            show(compare_over_seeds(runs_of(own=[(0.1,)])), "pass_at_1", **more)


def test_the_table_holds_what_was_found() -> None:
    arms = compare_over_seeds(runs_of(baseline=BASE, vpretraining=VALUE, known_wrong=KNOWN))
    table = table_of(arms, "loss")
    assert table["title"] == "held-out loss, nats per token (primary, 3 seeds)"
    assert table["arm"] == ["mean", "against baseline", "p", "better in", "way %", "tokens/s ratio"]
    assert table["baseline"] == ["0.1200 ± 0.0497", "–", "–", "–", "0", "1.00"]
    # the smaller p value of known_wrong comes first, so that this one is not multiplied
    assert table["vpretraining"] == [
        "0.1033 ± 0.0517", "-0.0167 ± 0.0143", f"{1 - 5 / math.sqrt(27):.3f}", "3/3", "33", "0.50",
    ]  # fmt: skip
    assert "Holm over 2" in table["caption"]
    table = table_of(arms, "pass_at_1", primary=False)
    assert "secondary" in table["title"]
    assert table["arm"][-1] == "way %"
    assert table["vpretraining"][:2] == ["66.7 ± 143.4", "+33.3 ± 143.4"]


def test_only_what_is_above_the_level_is_called_not_significant() -> None:
    strong = [(loss / 2 + i / 1e3, 1.0) for i, (loss, _) in enumerate(BASE)]
    arms = compare_over_seeds(runs_of(baseline=BASE, own=strong))
    p = arms[1].metrics["loss"].difference.p_value
    assert 0.001 < p < 0.05
    assert table_of(arms, "loss")["own"][2] == f"{p:.3f}"
    p = arms[1].metrics["pass_at_1"].difference.p_value
    assert p > 0.05
    assert table_of(arms, "pass_at_1")["own"][2] == f"{p:.3f} n.s."


def test_without_a_baseline_nothing_is_compared() -> None:
    arms = compare_over_seeds(runs_of(vpretraining=VALUE))
    assert arms[0].speed is None
    assert table_of(arms, "loss")["arm"] == ["mean"]


@pytest.mark.parametrize("metric", ["loss", "pass_at_1"])
def test_the_table_stays_within_100_columns(metric: str) -> None:
    rng = np.random.default_rng(0)
    names = ("baseline", "uniform_smoothing", "known_wrong")
    runs = []
    for setting in ("estimator=first_order, value=preconditioned, lr=0.001", "estimator=zero"):
        rows = {n: [(3 + k - rng.random(), 0.9 * rng.random()) for k in range(5)] for n in names}
        runs += runs_of(setting, **rows)
    runs.append(SeedRun("estimator=zero", 7, runs[-1].arms))
    table = comparison_table(compare_over_seeds(runs), metric, primary=True)
    console = Console(width=200, no_color=True, record=True, file=io.StringIO())
    console.print(table)
    text = console.export_text()
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "…" not in text
    for option in ("estimator=first_order,", "value=preconditioned,", "lr=0.001", "estimator=zero"):
        assert text.count(option) == 1


def test_the_picture_shows_every_seed_mean_and_interval(tmp_path, monkeypatch) -> None:
    drawn = []
    save = Figure.savefig
    monkeypatch.setattr(
        Figure, "savefig", lambda self, *a, **k: (drawn.append(self), save(self, *a, **k))
    )
    arms = compare_over_seeds(
        runs_of("lr=1", baseline=BASE, vpretraining=VALUE) + runs_of("lr=2", baseline=BASE)
    )
    comparison_plot(arms, "loss", tmp_path / "c.png")
    assert (tmp_path / "c.png").read_bytes()[:4] == b"\x89PNG"
    panels = drawn[0].axes
    assert [axes.get_xlabel().split(",")[0] for axes in panels] == ["held-out loss", "Pass@1"]
    labels = [label.get_text() for label in panels[0].get_yticklabels()]
    assert labels == ["lr=1", "baseline", "vpretraining", "lr=2", "baseline"]
    for axes, metric, scale in zip(panels, ("loss", "pass_at_1"), (1, 100), strict=True):
        assert len(axes.collections) == 3
        for dots, arm, row in zip(axes.collections, arms, (1, 2, 4), strict=True):
            measured = arm.metrics[metric]
            x, y = dots.get_offsets().T
            assert x.tolist() == pytest.approx([scale * value for value in measured.values])
            assert (abs(y - row) < 0.5).all()
            assert tuple(dots.get_facecolor()[0][:3]) == to_rgb(arm_style(arm.arm)[0])
        ends = [tuple(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
        expected = stats.t.interval(
            0.95,
            2,
            np.mean(arms[1].metrics[metric].values),
            stats.sem(arms[1].metrics[metric].values),
        )
        assert any(end == pytest.approx((scale * expected[0], scale * expected[1])) for end in ends)


def test_settings_are_no_formulas_and_no_commands_to_a_terminal(tmp_path) -> None:
    arms = compare_over_seeds(
        runs_of("stream=$a_$.jsonl \\frac{ $", baseline=BASE) + runs_of("\x1b[1m", baseline=BASE)
    )
    comparison_plot(arms, "loss", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size
    assert "\x1b" not in markdown(comparison_table(arms, "loss", primary=True))
