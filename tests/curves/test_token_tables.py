"""What the token curve prints, writes and draws, of made-up runs with known places."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from shown import band, cells, drawn, lines

from vfunc.modality import Metric
from vfunc.report.table import si
from vfunc.studies.curves.curve_files import as_csv
from vfunc.studies.curves.figures import token_figure
from vfunc.studies.curves.read_runs import arms_of
from vfunc.studies.curves.token_curve import curve_of, tokens_of
from vfunc.studies.finished_runs import FoundRun

METRICS = (Metric("loss", "loss"),
           Metric("pass_at_1", "Pass@1\n%", "%", True, scale=100.0, digits=1))  # fmt: skip
UNITS = {
    "baseline": ((0, 1000, 2000, 3000), (0, 1200, 2400, 3600)),
    "vpretraining": ((0, 900, 1800, 2700), (0, 1100, 2200, 3300)),
}
LOSS = {
    "baseline": ((3, 2, 1.5, 1), (3, 2.2, 1.6, 1.2)),
    "vpretraining": ((3, 1.75, 1.3, 0.7), (3, 2.05, 1.4, 1.3)),
}
NEEDED = ((1500, 1500), (2400, 3000), (None, 3300))
"""What the baseline reads to be as good, an evaluation a row, by seed."""


def made(folder, loss=LOSS, units=UNITS, **metrics):
    """Finished runs of seeds 5 and 6, with their logs."""
    found = []
    for n, seed in enumerate((5, 6)):
        path = folder / f"s{seed}"
        path.mkdir(parents=True)
        events = [
            {"kind": "evaluation", "arm": arm, "tokens": unit, "heldout_loss": value,
             **{name: of[arm][n][k] for name, of in metrics.items()}}
            for arm in loss
            for k, (unit, value) in enumerate(zip(units[arm][n], loss[arm][n], strict=True))
        ]  # fmt: skip
        (path / "events.jsonl").write_text("".join(json.dumps(e) + "\n" for e in events))
        arms = {
            arm: {"tokens": units[arm][n][-1], "seconds": 1.0, "metrics": {"loss": 1.0}}
            for arm in loss
        }
        content = {"config": {"seed": seed}, "unit": "tokens", "arms": arms,
                   "metrics": [vars(m) for m in METRICS]}  # fmt: skip
        found.append(FoundRun(path, "", content))
    return found


def half(values):
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


def times_of(needed, place):
    units = [of[place] for of in UNITS["vpretraining"]]
    return None if None in needed else [n / u for n, u in zip(needed, units, strict=True)]


def shown_times(times):
    return f"{np.mean(times):.2f} ± {half(times):.2f}"


def test_both_tables_cell_by_cell(tmp_path):
    curve = curve_of(tokens_of(made(tmp_path), list(LOSS)))
    rows = []
    for place, needed in enumerate(NEEDED, start=1):
        values = [of[place] for of in LOSS["vpretraining"]]
        units = np.mean([of[place] for of in UNITS["vpretraining"]])
        row = ["vpretraining", si(units), f"{np.mean(values):.4f} ± {half(values):.4f}"]
        times = times_of(needed, place)
        rows.append([*row, "in 1 of 2 seeds", "–"] if times is None
                    else [*row, si(np.mean(needed)), shown_times(times)])  # fmt: skip
    first, second = curve.tables
    assert cells(first) == [
        ["arm", "tokens", "mean", "baseline needs, tokens", "times as many"], *rows
    ]  # fmt: skip
    assert cells(second) == [
        ["arm", "tokens", "baseline read", "share"],
        ["vpretraining", "in 1 of 2 seeds", "3.3k", "–"],
    ]
    assert first.title == "loss" and "lower is better" in str(first.caption)
    assert curve.notes == []


def test_what_an_arm_needs_for_the_baseline_s_end(tmp_path):
    worse = {**LOSS, "baseline": (LOSS["baseline"][0], (3, 2.2, 1.6, 1.35))}
    curve = curve_of(tokens_of(made(tmp_path, worse), list(worse)))
    needed = (2250, 2750)
    times = [2250 / 3000, 2750 / 3600]
    assert cells(curve.tables[1])[1] == ["vpretraining", "2.5k", "3.3k", shown_times(times)]
    told = curve.content["to_baselines_end"]["vpretraining"]
    assert told["needed"] == pytest.approx(list(needed)) and told["reached"] == 2
    assert told["mean_times"] == pytest.approx(np.mean(times))


@pytest.mark.parametrize("skip", [0, 1])
def test_each_row_of_the_file_has_its_own_place(tmp_path, skip):
    curve = curve_of(tokens_of(made(tmp_path), list(LOSS), skip=skip))
    text = as_csv(curve.rows)
    assert text.splitlines()[0] == "arm,place,tokens,mean,low,high,baseline_needs_tokens,times,reached,seed_5,seed_6"  # fmt: skip
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 2 * (4 - skip)
    for row in rows:
        place = int(row["place"]) + skip
        values = [of[place] for of in LOSS[row["arm"]]]
        assert [float(row["seed_5"]), float(row["seed_6"])] == values
        assert float(row["tokens"]) == np.mean([of[place] for of in UNITS[row["arm"]]])
        assert float(row["mean"]) == pytest.approx(np.mean(values))
        assert float(row["high"]) - float(row["low"]) == pytest.approx(2 * half(values))
        if row["arm"] == "baseline" or place == 0:
            assert row["times"] == row["baseline_needs_tokens"] == row["reached"] == ""
            continue
        needed = NEEDED[place - 1]
        reached = sum(n is not None for n in needed)
        assert row["reached"] == str(reached)
        if reached == 2:
            assert float(row["baseline_needs_tokens"]) == pytest.approx(np.mean(needed))
            assert float(row["times"]) == pytest.approx(np.mean(times_of(needed, place)))
        else:
            assert row["times"] == row["baseline_needs_tokens"] == ""


def test_the_figure_has_means_over_seeds_and_the_need_upwards(tmp_path):
    tokens = tokens_of(made(tmp_path), list(LOSS))
    with drawn(token_figure) as figures:
        curve_of(tokens).draw(Path("x.png"))
    left, right = figures[0].axes
    for arm, points in lines(left).items():
        assert points == [
            (np.mean([of[k] for of in UNITS[arm]]), pytest.approx(np.mean([of[k] for of in LOSS[arm]])))
            for k in range(4)
        ]  # fmt: skip
    for k, ends in enumerate(band(left, 1).values()):
        values = [of[k] for of in LOSS["vpretraining"]]
        assert ends == pytest.approx((np.mean(values) - half(values), np.mean(values) + half(values)))  # fmt: skip
    assert right.get_ylabel().startswith("tokens that the baseline needs")
    assert right.lines[0].get_xydata() == pytest.approx(np.array([[1000, 1500], [2000, 2700]]))
    # where not every seed has it an arrow stands in place of a mean
    assert len(right.texts) == 1 and right.texts[0].xy[0] == 3000


def test_the_first_place_is_that_of_the_same_seed(tmp_path):
    def notes(name, loss, skip=0):
        return curve_of(tokens_of(made(tmp_path / name, loss), list(loss), skip=skip)).notes

    assert notes("a", LOSS) == []
    rises = ((3, 3.5, 3.2, 1), (3, 2.2, 1.6, 1.2))  # of the first seed, behind its start
    (note,) = notes("b", {**LOSS, "vpretraining": rises})
    assert note.startswith("The baseline is as good untrained, at the first place of its curve")
    other = (LOSS["vpretraining"][0], (3, 3.5, 3.2, 1.3))  # the second seed's alone
    (note,) = notes("c", {**LOSS, "vpretraining": other}, skip=1)
    assert note.startswith("The baseline is as good at 1.2k tokens, at the first place")
    early = ((3, 0.5, 0.6, 0.7), (3, 1.9, 1.4, 1.3))
    (note,) = notes("d", {**LOSS, "vpretraining": early}, skip=1)
    assert note.startswith("vpretraining is as good at 900 tokens, at the first place of its curve")


def test_the_metric_is_the_primary_one_where_it_was_followed(tmp_path):
    share = {arm: tuple(tuple(1 / (1 + v) for v in of) for of in LOSS[arm]) for arm in LOSS}
    curve = curve_of(tokens_of(made(tmp_path / "a", pass_at_1=share), list(LOSS)))
    assert curve.content["metric"]["name"] == "pass_at_1"
    assert "higher is better" in str(curve.tables[0].caption)
    # 100 / (1 + loss), and the other way up
    place = curve.content["points"][5]
    assert place["values"] == [1 / 2.75, 1 / 3.05] and place["baseline_needs"]["reached"] == 2
    asked = tokens_of(made(tmp_path / "b", pass_at_1=share), list(LOSS), "loss")
    assert asked.metric.name == "loss"
    followed = asked.curves["baseline"][1]
    assert (followed.units, followed.values) == ((0, 1200, 2400, 3600), (3, 2.2, 1.6, 1.2))
    told = asked.to_end["vpretraining"]
    assert told.needed == (pytest.approx(2250), None) and told.times[0] == pytest.approx(0.75)


def test_an_arm_that_is_named_twice_is_one_arm(tmp_path):
    found = made(tmp_path)
    assert arms_of(found, ["vpretraining", "baseline", "vpretraining"]) == ["vpretraining", "baseline"]  # fmt: skip
    assert arms_of(found, None) == ["baseline", "vpretraining"]
