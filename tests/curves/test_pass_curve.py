"""Pass@k of made-up solutions: p values, what is printed, what is drawn."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from shown import band, cells, drawn, lines

from vfunc.evaluation.pass_at_k import holm, paired_t
from vfunc.report.table import p_text
from vfunc.studies.curves.curve_files import as_csv
from vfunc.studies.curves.curve_options import PassOptions
from vfunc.studies.curves.figures import pass_figure
from vfunc.studies.curves.pass_curve import curve_of
from vfunc.studies.curves.pass_statistics import Sampled, pass_curves

SOLVED = {
    "baseline": [Sampled(2, (0, 1)), Sampled(2, (1, 1)), Sampled(2, (2, 1))],
    "vpretraining": [Sampled(2, (1, 1)), Sampled(2, (2, 1)), Sampled(2, (2, 2))],
    "sft": [Sampled(2, (0, 1)), Sampled(2, (1, 2)), Sampled(2, (2, 2))],
}
"""Three seeds; at k = 1 V-pretraining is .25 above the baseline in each."""


def of(solved, seeds=(4, 5, 6), k=2):
    options = PassOptions(from_=("x",), k=k, temperature=0.5)
    return curve_of(pass_curves(solved, k), solved, seeds, options)


def half(values):
    return 100 * stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


@pytest.mark.parametrize(
    ("base", "arm"),
    [
        ([Sampled(2, (0, 1)), Sampled(2, (1, 0))], [Sampled(2, (1, 1)), Sampled(2, (1, 1))]),
        ([Sampled(4, (0, 1, 2))], [Sampled(4, (1, 2, 3))]),
        # every seed solves all or nothing: outcomes are of problems, and seeds have none
        ([Sampled(1, (0, 0)), Sampled(1, (0, 0))], [Sampled(1, (1, 1)), Sampled(1, (1, 1))]),
    ],
)
def test_differences_that_are_all_equal_have_no_p_value(base, arm):
    one = pass_curves({"baseline": base, "vpretraining": arm}, 1)["vpretraining"][0]
    assert one.difference > 0 and one.p_value is None
    same = pass_curves({"baseline": base, "vpretraining": base}, 1)["vpretraining"][0]
    assert same.p_value == 1.0


def test_seeds_are_compared_by_t_and_the_problems_of_one_run_by_mcnemar():
    seeds = {
        "baseline": [Sampled(1, (0, 0))] * 4,
        "vpretraining": [Sampled(1, (1, 1))] * 3 + [Sampled(1, (0, 0))],
    }
    one = pass_curves(seeds, 1)["vpretraining"][0]
    assert one.p_value == pytest.approx(stats.ttest_rel([1, 1, 1, 0], [0] * 4).pvalue)
    problems = {"baseline": [Sampled(1, (0, 0, 0, 0))], "vpretraining": [Sampled(1, (1, 1, 1, 1))]}
    assert pass_curves(problems, 1)["vpretraining"][0].p_value == 2 * 0.5**4


def test_a_spread_of_rounding_alone_is_none():
    a = [0.1 + 0.2, 0.4 + 0.2, 0.7 + 0.2]
    assert paired_t(a, [0.1, 0.4, 0.7]) is None and np.ptp(np.subtract(a, [0.1, 0.4, 0.7])) > 0
    assert paired_t([0.5], [0.1]) is None and paired_t([0.5, 0.2], [0.5, 0.2]) == 1.0


def test_the_table_is_of_the_figures_and_holm_s_counts_what_is_undefined():
    curve = of(SOLVED)
    at = {
        1: {"baseline": (0.25, 0.5, 0.75), "vpretraining": (0.5, 0.75, 1), "sft": (0.25, 0.75, 1)},
        2: {"baseline": (0.5, 1, 1), "vpretraining": (1, 1, 1), "sft": (0.5, 1, 1)},
    }
    p = {
        (1, "vpretraining"): None,
        (1, "sft"): stats.ttest_rel(at[1]["sft"], at[1]["baseline"]).pvalue,
        (2, "vpretraining"): stats.ttest_rel(at[2]["vpretraining"], at[2]["baseline"]).pvalue,
        (2, "sft"): 1.0,
    }
    raw = [1.0 if value is None else value for value in p.values()]
    adjusted = dict(zip(p, holm(raw), strict=True))
    made = [["k", "arm", "mean", "against baseline", "p"]]
    for k, values in at.items():
        for arm, of_arm in values.items():
            row = [str(k), arm, f"{100 * np.mean(of_arm):.1f} ± {half(of_arm):.1f}"]
            apart = np.subtract(of_arm, values["baseline"])
            p_value = None if (k, arm) == (1, "vpretraining") else adjusted.get((k, arm))
            made.append(
                [*row, "–", "–"]
                if arm == "baseline"
                else [*row, f"{100 * apart.mean():+.1f} ± {half(apart):.1f}", p_text(p_value)]
            )
    assert cells(curve.tables[0]) == made
    assert p[1, "sft"] < adjusted[1, "sft"]
    (row,) = [r for r in csv.DictReader(as_csv(curve.rows).splitlines())
              if (r["arm"], r["k"]) == ("sft", "1")]  # fmt: skip
    assert float(row["p_value"]) == pytest.approx(p[1, "sft"])  # not adjusted
    assert [row[f"seed_{seed}"] for seed in (4, 5, 6)] == ["0.25", "0.75", "1.0"]


def test_of_several_runs_the_words_say_seeds():
    curve = of(SOLVED)
    assert curve.notes == (
        ["2 problems, 2 samples of each at temperature 0.5; intervals are over seeds."]
    )
    assert "95 % interval over seeds" in str(curve.tables[0].caption)


def test_the_figure_is_in_percent_and_differences_have_a_panel():
    curves = pass_curves(SOLVED, 2)
    with drawn(pass_figure) as figures:
        pass_figure.draw_pass(curves, "seeds", Path("x.png"))
    left, right = figures[0].axes
    assert lines(left) == {
        arm: [(one.k, 100 * one.mean) for one in of_arm] for arm, of_arm in curves.items()
    }
    assert lines(right) == {
        arm: [(one.k, 100 * one.difference) for one in curves[arm]]
        for arm in ("vpretraining", "sft")
    }
    for k, ends in band(left).items():
        interval = curves["baseline"][int(k) - 1].interval
        assert ends == pytest.approx((100 * interval[0], 100 * interval[1]))
