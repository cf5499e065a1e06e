"""The mathematics of curves, on made-up numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import pass_at_k
from vfunc.modality import Metric
from vfunc.report.measures import Measures
from vfunc.report.seed_statistics import SeedRun, compare_over_seeds
from vfunc.studies.curves.correlation import agreement_of, correlated, over_runs
from vfunc.studies.curves.curve_options import weights_of
from vfunc.studies.curves.feedback_data import (
    feedback_examples,
    require_held,
    require_same_evaluation,
)
from vfunc.studies.curves.pass_statistics import Sampled, pass_curves
from vfunc.studies.curves.swept_runs import touched
from vfunc.studies.curves.token_reach import Followed, first_reach, needed_at
from vfunc.studies.curves.trade_off import on_front, weighted

# --- who needs how many tokens


@pytest.mark.parametrize(
    ("level", "higher", "place"),
    [
        (1.5, False, 50.0),  # halfway between 2 at 0 and 1 at 100
        (1.0, False, 100.0),
        (0.75, False, 275.0),  # falls from 1.5 at 200 to 0.5 at 300
        (1.25, False, 75.0),  # the first place, though the curve rises again
        (2.5, False, 0.0),  # the start is as good
        (0.4, False, None),
        (2.0, True, 0.0),
        (2.1, True, None),
    ],
)
def test_a_curve_is_first_as_good_where_its_straight_lines_are(level, higher, place):
    units, values = (0.0, 100.0, 200.0, 300.0), (2.0, 1.0, 1.5, 0.5)
    found = first_reach(units, values, level, higher_is_better=higher)
    assert found is place if place is None else found == pytest.approx(place)


def test_a_curve_of_what_is_better_higher_is_the_mirror_image():
    units, values = (10.0, 20.0, 40.0), (0.1, 0.3, 0.2)
    assert first_reach(units, values, 0.25, higher_is_better=True) == pytest.approx(17.5)
    mirrored = tuple(-value for value in values)
    assert first_reach(units, mirrored, -0.25, higher_is_better=False) == pytest.approx(17.5)


def test_places_that_do_not_ascend_are_refused():
    with pytest.raises(UserError, match="must ascend"):
        first_reach((0.0, 10.0, 10.0), (1.0, 2.0, 3.0), 2.0, higher_is_better=True)
    with pytest.raises(UserError, match="2 places and 1 values"):
        first_reach((0.0, 10.0), (1.0,), 2.0, higher_is_better=True)


def followed(units, values):
    return Followed(tuple(map(float, units)), tuple(map(float, values)))


def test_what_is_needed_is_told_seed_by_seed():
    base = [followed((0, 100, 200), (3.0, 2.0, 1.0)), followed((0, 100, 200), (3.0, 2.5, 2.0))]
    arm = [followed((0, 80), (3.0, 2.0)), followed((0, 100), (3.0, 2.0))]
    found = needed_at(base, arm, 1, higher_is_better=False)
    assert found.needed == (100.0, 200.0) and found.times == (1.25, 2.0)
    assert found.reached == 2 and found.mean_needed == 150.0 and found.mean_times == 1.625
    reach = stats.t.ppf(0.975, 1) * stats.sem([1.25, 2.0])
    assert found.times_interval == pytest.approx((1.625 - reach, 1.625 + reach))
    better = [arm[0], followed((0, 100), (3.0, 1.5))]  # which the second baseline never is
    found = needed_at(base, better, -1, higher_is_better=False)
    assert found.needed == (100.0, None) and found.reached == 1
    assert found.mean_needed is None and found.mean_times is None
    assert found.times_interval is None


# --- the Pareto front


def test_the_front_is_what_no_other_beats():
    points = [(0.5, 0.6), (0.6, 0.7), (0.55, 0.7), (0.4, 0.6), (0.4, 0.5), (0.6, 0.7)]
    assert on_front(points) == [True, True, False, False, True, True]
    assert on_front([(0.5, 0.5)]) == [True]


MEASURES = Measures(
    "images",
    (Metric("loss", "loss"), Metric("rmse", "RMSE\nm", "m"), Metric("miou", "mIoU", "%", True)),
)


def dense(miou, rmse):
    return {"loss": 1.0, "miou": miou, "rmse": rmse, "units_per_second": 1.0}


def test_the_baseline_is_one_point_and_may_be_on_the_front():
    settings = {"a": (1.0, 0.0), "b": (0.0, 1.0)}
    still = {"baseline": dense(0.5, 0.5), "uniform_smoothing": dense(0.1, 0.9)}
    runs = [
        SeedRun(name, seed, {**still, "vpretraining": dense(*figures)})
        for name, figures in {"a": (0.6, 0.7), "b": (0.4, 0.6)}.items()
        for seed in (0, 1)
    ]
    points = weighted(compare_over_seeds(runs, MEASURES), settings)
    assert [(p.arm.arm, p.label, p.front) for p in points] == [
        ("baseline", "", True),
        ("uniform_smoothing", "", False),
        ("vpretraining", "1 : 0", True),
        ("vpretraining", "0 : 1", False),
    ]


@pytest.mark.parametrize("text", ["1", "1:x", "-1:2", "0:0", "1:inf", "nan:1", ""])
def test_weights_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="give SEGMENTATION:DEPTH"):
        weights_of(text)


def test_weights_are_a_pair():
    assert weights_of("16:2") == (16.0, 2.0) and weights_of("0.5:0") == (0.5, 0.0)


# --- Pass@k


def test_of_one_run_intervals_and_tests_are_over_problems():
    solved = {"baseline": [Sampled(4, (0, 1, 2, 4))], "vpretraining": [Sampled(4, (1, 1, 4, 4))]}
    found = pass_curves(solved, 3)
    for k in (1, 2, 3):
        one, base = found["vpretraining"][k - 1], found["baseline"][k - 1]
        a = [pass_at_k(4, c, k) for c in (1, 1, 4, 4)]
        b = [pass_at_k(4, c, k) for c in (0, 1, 2, 4)]
        assert one.k == k and one.values == (np.mean(a),) and base.mean == np.mean(b)
        reach = stats.t.ppf(0.975, 3) * stats.sem(a)
        assert one.interval == pytest.approx((np.mean(a) - reach, np.mean(a) + reach))
        assert base.difference is None and base.p_value is None
        assert one.difference == pytest.approx(np.mean(a) - np.mean(b))
        assert one.p_value == pytest.approx(stats.ttest_rel(a, b).pvalue)
        apart = np.subtract(a, b)
        reach = stats.t.ppf(0.975, 3) * stats.sem(apart)
        assert one.difference_interval == pytest.approx(
            (apart.mean() - reach, apart.mean() + reach)
        )


def test_of_several_runs_they_are_over_seeds():
    solved = {
        "baseline": [Sampled(2, (0, 1)), Sampled(2, (1, 1)), Sampled(2, (2, 0))],
        "vpretraining": [Sampled(2, (1, 1)), Sampled(2, (2, 1)), Sampled(2, (2, 1))],
    }
    one = pass_curves(solved, 1)["vpretraining"][0]
    a, b = np.array([0.5, 0.75, 0.75]), np.array([0.25, 0.5, 0.5])
    assert one.values == tuple(a) and one.difference == pytest.approx(0.25)
    reach = stats.t.ppf(0.975, 2) * stats.sem(a)
    assert one.interval == pytest.approx((a.mean() - reach, a.mean() + reach))
    assert one.difference_interval == pytest.approx((0.25, 0.25)) and (a - b == 0.25).all()
    alone = pass_curves({"vpretraining": solved["vpretraining"]}, 1)["vpretraining"][0]
    assert alone.difference is None and alone.interval == one.interval


def test_arms_that_were_asked_other_problems_are_no_pairs():
    solved = {"baseline": [Sampled(2, (0, 1))], "vpretraining": [Sampled(2, (0, 1, 1))]}
    with pytest.raises(UserError, match="asked 3 and 2 problems"):
        pass_curves(solved, 1)


# --- correlations


def test_r_and_its_interval_are_those_of_a_known_correlation():
    draw = np.random.default_rng(3)
    x = draw.standard_normal(400)
    y = 0.6 * x + 0.8 * draw.standard_normal(400)
    found = correlated(x.tolist(), y.tolist(), 2000)
    assert found.count == 400 and found.pearson == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert found.spearman == pytest.approx(stats.spearmanr(x, y).statistic)
    # Fisher's interval, which holds for normal figures
    ends = np.tanh(np.arctanh(found.pearson) + np.array([-1.96, 1.96]) / math.sqrt(397))
    assert found.interval == pytest.approx(tuple(ends), abs=0.006)
    assert correlated(x.tolist(), y.tolist(), 2000) == found  # the draws are seeded


def test_a_draw_is_of_pairs():
    x = [float(v) for v in range(10)]
    found = correlated(x, [2 * v + 1 for v in x], 200)
    assert found.pearson == pytest.approx(1) and found.interval == pytest.approx((1, 1))


@pytest.mark.parametrize("pair", [([1.0] * 6, [1, 2, 3, 4, 5, 6]), ([1, 2, 3, 4], [1, 2, 3, 5])])
def test_a_constant_or_too_few_tasks_have_none(pair):
    found = correlated(*([float(v) for v in side] for side in pair), 200)
    assert (found.pearson, found.interval, found.spearman) == (None, None, None)


def test_of_several_runs_r_and_its_interval_are_of_fisher_s_z():
    rs = [0.5, 0.7, 0.6]
    z = np.arctanh(rs)
    reach = stats.t.ppf(0.975, 2) * stats.sem(z)
    mean, interval = over_runs(rs)
    assert mean == pytest.approx(np.tanh(z.mean()))
    assert interval == pytest.approx(tuple(np.tanh([z.mean() - reach, z.mean() + reach])))
    assert max(map(abs, over_runs([1.0, -0.5])[1])) <= 1
    x = [float(v) for v in range(8)]
    runs = [list(zip(x, x, strict=True)), list(zip(x, [2 * v for v in x[::-1]], strict=True))]
    found = agreement_of(runs, 100)
    assert found.pearson == pytest.approx(0, abs=1e-9) and found.predicted == 3.5
    assert found.realised == 5.25
    assert [one.pearson for one in found.each] == pytest.approx([1, -1])
    runs[1] = [(1.0, value) for value in x]
    assert agreement_of(runs, 100).pearson is None
    assert agreement_of(runs, 100).interval is None and agreement_of(runs, 100).spearman is None


def test_the_interval_over_runs_holds_the_r_beside_it():
    x = np.arange(40.0)
    noise = np.random.default_rng(0).standard_normal(40)
    runs = [list(zip(x, x + size * noise, strict=True)) for size in (0.001, 12, 12.01, 11.99)]
    found = agreement_of(runs, 100)
    low, high = found.interval
    assert low < found.pearson < high
    assert found.pearson == pytest.approx(np.tanh(np.mean([np.arctanh(a.pearson) for a in found.each])))  # fmt: skip
    assert found.spearman == pytest.approx(np.mean([a.spearman for a in found.each]))
    assert len({round(a.spearman, 6) for a in found.each}) > 1


# --- what a size of the feedback changes


@pytest.mark.parametrize(
    ("arm", "does"),
    [("baseline", False), ("uniform_smoothing", False), ("known_objects", False),
     ("vpretraining", True), ("random_feedback", True), ("oracle", True), ("sft", True),
     ("matched_uniform", True)],
)  # fmt: skip
def test_which_arms_the_feedback_touches(arm, does):
    assert touched(arm) == does


def test_a_size_that_the_data_do_not_hold_is_refused():
    language = {n: {"feedback": {"sequences": min(n, 100)}} for n in (50, 100, 200)}
    require_held({n: language[n] for n in (50, 100)}, 1)
    for told in (language, {n: language[n] for n in (50, 200)}):  # more than of a smaller size
        with pytest.raises(UserError, match=r"--sizes 200: the feedback holds 100 examples; leave"):
            require_held(told, 1)
    short = {200: {"feedback": {"sequences": 190, "dropped": {"too long": 10}}}}
    require_held(short, 1)
    short[200]["feedback"]["dropped"]["too long"] = 9
    with pytest.raises(UserError, match=r"--sizes 200: the feedback holds 199 examples"):
        require_held(short, 1)
    pictures = {n: {"sources": [{"pictures": {"feedback": min(n, 7)}}]} for n in (4, 8)}
    with pytest.raises(UserError, match=r"--sizes 8: the feedback holds 7 examples"):
        require_held(pictures, 1)
    require_held({1: {}, 2: {}}, 1)  # nothing is known


def test_of_several_sources_a_size_has_to_bring_more_than_a_smaller_one():
    language = {n: {"feedback": {"sequences": min(2 * n, 150)}} for n in (50, 100, 200)}
    require_held({n: language[n] for n in (50, 100)}, 2)
    with pytest.raises(UserError, match=r"--sizes 200: .* 150 examples, as with 100"):
        require_held(language, 2)
    pictures = {"sources": [{"pictures": {"feedback": 7}}, {"pictures": {"feedback": 5}}]}
    assert feedback_examples(pictures) == 12 and feedback_examples({}) is None


def test_other_held_out_examples_are_refused():
    data = {
        name: {
            "feedback": {"sequences": n},
            "eval": {"sequences": 10, "dropped": {"too long": left}},
        }
        for name, n, left in (("a", 4, 0), ("b", 8, 0), ("c", 16, 2))
    }
    require_same_evaluation({name: data[name] for name in "ab"})
    with pytest.raises(UserError, match=r"depends on the size of the feedback, .* \(c\)"):
        require_same_evaluation(data)
    both = {name: {"eval": {"dropped": {"also in the feedback": 1}}} for name in "ab"}
    with pytest.raises(UserError, match="some are in both"):
        require_same_evaluation(both)
    pictures = {
        n: {"sources": [{"source": "x", "pictures": {"feedback": n, "test": 5}}]} for n in "ab"
    }
    require_same_evaluation(pictures)
    pictures["b"]["sources"][0]["pictures"]["test"] = 6
    with pytest.raises(UserError, match="which examples are held out"):
        require_same_evaluation(pictures)
