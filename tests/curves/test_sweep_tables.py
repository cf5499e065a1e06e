"""What sweeps print, write and draw, of made-up runs with known figures."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from shown import cells, drawn, lines

from vfunc.errors import UserError
from vfunc.evaluation.pass_at_k import holm
from vfunc.modality import Metric
from vfunc.report.table import p_text
from vfunc.studies.curves import feedback_size, trade_off
from vfunc.studies.curves.curve_command import asked_of
from vfunc.studies.curves.curve_files import as_csv
from vfunc.studies.curves.figures import size_figure, trade_off_figure
from vfunc.studies.curves.swept_runs import Swept
from vfunc.studies.finished_runs import FoundRun

TEXT = (Metric("loss", "loss"), Metric("pass_at_1", "Pass@1\n%", "%", True, scale=100.0, digits=1))
PICTURES = (Metric("loss", "loss"), Metric("rmse", "RMSE\nm", "m", digits=2),
            Metric("miou", "mIoU\n%", "%", True, scale=100.0, digits=1))  # fmt: skip
SEEDS = (0, 1, 2)


def found(setting, seed, arms, metrics, data=None):
    """A finished run; arms: a figure for each metric."""
    made = {
        arm: {"tokens": 8, "images": 8, "seconds": 1.0,
              "metrics": dict(zip([m.name for m in metrics], figures, strict=False))}
        for arm, figures in arms.items()
    }  # fmt: skip
    content = {"config": {"seed": seed}, "unit": "images" if metrics is PICTURES else "tokens",
               "metrics": [vars(m) for m in metrics], "arms": made, "data": data or {}}  # fmt: skip
    return FoundRun(Path(f"r/{setting}/{seed}"), setting, content)


def half(values):
    return stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)


LOSS = {
    "baseline": (0.9, 0.8, 0.95),
    "uniform_smoothing": (0.85, 0.7, 0.93),
    2: (0.7, 0.75, 0.8),
    4: (0.5, 0.45, 0.6),
    8: (0.4, 0.42, 0.39),
}
"""The loss by seed; of V-pretraining by the size of the feedback."""


def pass_of(loss):
    return 1 - loss


def sizes_made(sources=1):
    """A sweep of three sizes over three seeds."""
    shared = [
        found("", s, {arm: (LOSS[arm][s], pass_of(LOSS[arm][s]))
                      for arm in ("baseline", "uniform_smoothing")}, TEXT)
        for s in SEEDS
    ]  # fmt: skip
    own = [
        found(f"feedback_size={n}", s, {"vpretraining": (LOSS[n][s], pass_of(LOSS[n][s]))}, TEXT,
              {"feedback": {"sequences": n * sources}})
        for n in (2, 4, 8)
        for s in SEEDS
    ]  # fmt: skip
    sizes = {f"feedback_size={n}": n for n in (2, 4, 8)}
    return Swept(Path("r"), (*shared, *own), tuple(sizes)), sizes


def p_values():
    """Raw and adjusted p values of the loss: four comparisons, whatever the number of sizes."""
    names = ("uniform_smoothing", 2, 4, 8)
    raw = [stats.ttest_rel(LOSS[name], LOSS["baseline"]).pvalue for name in names]
    return dict(zip(names, zip(raw, holm(raw), strict=True), strict=True))


def sizes_table(counts):
    rows = [("any", "baseline", "baseline"), ("any", "uniform_smoothing", "uniform_smoothing")]
    rows += [(str(n), "vpretraining", n) for n in (2, 4, 8)]
    made = []
    for size, arm, name in rows:
        of, apart = LOSS[name], np.subtract(LOSS[name], LOSS["baseline"])
        row = [*counts.get(size, [size]), arm, f"{np.mean(of):.4f} ± {half(of):.4f}"]
        made.append(
            [*row, "–", "–"]
            if arm == "baseline"
            else [*row, f"{apart.mean():+.4f} ± {half(apart):.4f}", p_text(p_values()[name][1])]
        )
    return made


def test_the_table_of_sizes_has_each_arm_that_sees_no_feedback_once():
    curve = feedback_size.curve_of(*sizes_made(), "loss")
    head, *rows = cells(curve.tables[0])
    assert head == ["feedback", "arm", "mean", "against baseline", "p"]
    assert rows == sizes_table({})
    caption = " ".join(str(curve.tables[0].caption).split())
    assert "lower is better" in caption and "Holm over all sizes and arms" in caption
    assert curve.notes == [
        "baseline, uniform_smoothing: one run a seed for all sizes, since it sees no feedback."
    ]


def test_what_all_sizes_share_is_one_comparison_in_holm_s():
    swept, _ = sizes_made()
    made = {(one.setting, one.arm): one.metrics["loss"].difference for one in swept.compared}
    for setting, name in (("feedback_size=2", 2), ("feedback_size=4", 4), ("feedback_size=8", 8)):
        for arm, key in (("uniform_smoothing", "uniform_smoothing"), ("vpretraining", name)):
            d = made[setting, arm]
            assert (d.p_value, d.p_value_holm) == pytest.approx(p_values()[key]), arm
    raw, adjusted = p_values()["uniform_smoothing"]
    assert raw < adjusted < 0.2


def test_of_several_sources_table_file_and_figure_tell_the_examples_there_are():
    swept, sizes = sizes_made(sources=3)
    curve = feedback_size.curve_of(swept, sizes, "loss")
    head, *rows = cells(curve.tables[0])
    assert head[:3] == ["feedback", "examples", "arm"]
    counts = {"any": ["any", "any"], "2": ["2", "6"], "4": ["4", "12"], "8": ["8", "24"]}
    assert rows == sizes_table(counts)
    assert "examples: what that made in all" in " ".join(str(curve.tables[0].caption).split())
    written = list(csv.DictReader(as_csv(curve.rows).splitlines()))
    assert {(r["feedback_size"], r["examples"]) for r in written} == {("2", "6"), ("4", "12"), ("8", "24")}  # fmt: skip
    with drawn(size_figure) as figures:
        curve.draw(Path("x.png"))
    assert [x for x, _ in lines(figures[0].axes[0])["vpretraining"]] == [6, 12, 24]
    assert list(figures[0].axes[0].get_xticks()) == [6, 12, 24]


def test_the_file_of_sizes_has_a_row_for_each_size_arm_and_metric():
    curve = feedback_size.curve_of(*sizes_made(), "pass_at_1")
    text = as_csv(curve.rows)
    # figures in print are read off files of these columns
    assert text.splitlines()[0] == "feedback_size,arm,metric,mean,low,high,seed_0,seed_1,seed_2,examples"  # fmt: skip
    rows = list(csv.DictReader(text.splitlines()))
    assert len(rows) == 18
    for row in rows:
        of = LOSS.get(row["arm"]) or LOSS[int(row["feedback_size"])]
        of = of if row["metric"] == "loss" else tuple(map(pass_of, of))
        assert float(row["mean"]) == pytest.approx(np.mean(of))
        assert float(row["low"]) == pytest.approx(np.mean(of) - half(of))
        assert float(row["high"]) == pytest.approx(np.mean(of) + half(of))
        assert [float(row[f"seed_{s}"]) for s in SEEDS] == list(of)
    assert [m["name"] for m in curve.content["metrics"]] == ["pass_at_1", "loss"]
    assert all(list(p["metrics"]) for p in curve.content["points"])


def test_the_figure_of_sizes_has_each_arm_s_own_figures():
    swept, sizes = sizes_made()
    with drawn(size_figure) as figures:
        feedback_size.curve_of(swept, sizes, "pass_at_1").draw(Path("x.png"))
    first, second = figures[0].axes  # the primary one first
    for axes, scale, of in ((first, 100, pass_of), (second, 1, float)):
        shown = lines(axes)
        for n, (x, y) in zip((2, 4, 8), shown["vpretraining"], strict=True):
            assert x == n and y == pytest.approx(scale * np.mean([of(v) for v in LOSS[n]]))
        for arm in ("baseline", "uniform_smoothing"):
            level = scale * np.mean([of(v) for v in LOSS[arm]])
            assert [y for _, y in shown[arm]] == pytest.approx([level, level])
    ends = [np.ptp(line.get_ydata()) for line in second.lines if line.get_label().startswith("_")]
    assert ends == pytest.approx([2 * half(LOSS[n]) for n in (2, 4, 8)])


def test_metrics_that_the_figure_has_no_room_for_are_told():
    swept, sizes = sizes_made()
    several = (*TEXT, *(Metric(f"m{n}", f"m{n}") for n in range(6)))
    runs = []
    for one in swept.found:
        content = {**one.content, "metrics": [vars(m) for m in several]}
        content["arms"] = {
            arm: {**of, "metrics": {m.name: 0.5 + len(arm) for m in several}}
            for arm, of in one.content["arms"].items()
        }
        runs.append(FoundRun(one.path, one.setting, content))
    curve = feedback_size.curve_of(Swept(swept.folder, tuple(runs), swept.settings), sizes, "m3")
    assert "The figure leaves out pass_at_1, loss, which the files have." in curve.notes


# --- the trade-off

DENSE = {
    ("", "baseline"): ((0.5, 0.52, 0.54), (0.7, 0.66, 0.65)),
    ("", "uniform_smoothing"): ((0.4, 0.42, 0.45), (0.8, 0.86, 0.87)),
    ("a", "vpretraining"): ((0.6, 0.62, 0.66), (0.7, 0.75, 0.71)),
    ("b", "vpretraining"): ((0.55, 0.5, 0.52), (0.5, 0.46, 0.51)),
}
"""mIoU and RMSE by seed."""
PAIRS = {"a": (1.0, 0.0), "b": (0.123456789, 8.0)}


def trade_off_made():
    runs = [
        found(setting, s, {arm: (1.0, rmse[s], miou[s])
                           for (at, arm), (miou, rmse) in DENSE.items() if at == setting}, PICTURES)
        for setting in ("", "a", "b")
        for s in SEEDS
    ]  # fmt: skip
    return Swept(Path("r"), tuple(runs), ("a", "b"))


LABELS = {"": "any", "a": "1 : 0", "b": "0.123456789 : 8"}
FRONT = {("a", "vpretraining"), ("b", "vpretraining")}


def test_the_table_of_weights():
    curve = trade_off.curve_of(trade_off_made(), PAIRS)
    made = []
    for (setting, arm), (miou, rmse) in DENSE.items():
        row = [LABELS[setting], arm]
        for of, base, scale, digits in ((miou, DENSE["", "baseline"][0], 100, 1),
                                        (rmse, DENSE["", "baseline"][1], 1, 2)):  # fmt: skip
            of, apart = scale * np.array(of), scale * np.subtract(of, base)
            row.append(f"{of.mean():.{digits}f} ± {half(of):.{digits}f}")
            row.append("–" if arm == "baseline"
                       else f"{apart.mean():+.{digits}f} ± {half(apart):.{digits}f}")  # fmt: skip
        made.append([*row, "*" if (setting, arm) in FRONT else ""])
    head, *rows = cells(curve.tables[0])
    assert rows == made
    assert head == ["weights", "arm", "mIoU, %", "against baseline", "RMSE, m", "against baseline", "front"]  # fmt: skip


def test_the_file_of_weights_has_both_figures():
    curve = trade_off.curve_of(trade_off_made(), PAIRS)
    rows = list(csv.DictReader(as_csv(curve.rows).splitlines()))
    for row, point, ((setting, arm), figures) in zip(
        rows, curve.content["points"], DENSE.items(), strict=True
    ):
        weights = PAIRS.get(setting)
        assert row["arm"] == point["arm"] == arm
        assert row["on_front"] == str((setting, arm) in FRONT) == str(point["on_front"])
        for name, weight in zip(("segmentation_weight", "depth_weight"), weights or ("", ""), strict=True):  # fmt: skip
            assert row[name] == str(weight) and point[name] == (weight if weights else None)
        for name, of in zip(("miou", "rmse"), figures, strict=True):
            assert float(row[name]) == pytest.approx(np.mean(of)) == point[name]["mean"]
            assert float(row[f"{name}_low"]) == pytest.approx(np.mean(of) - half(of))
            assert float(row[f"{name}_high"]) == pytest.approx(np.mean(of) + half(of))
            assert [float(row[f"{name}_seed_{s}"]) for s in SEEDS] == list(of)
    uniform = curve.content["points"][1]["miou"]["difference"]
    base = DENSE["", "baseline"][0]
    raw = [stats.ttest_rel(DENSE[key][0], base).pvalue for key in list(DENSE)[1:]]
    assert uniform["p_value_holm"] == pytest.approx(holm(raw)[0])  # three comparisons


def test_the_figure_of_weights_has_depth_to_the_right_and_segmentation_upwards():
    swept = trade_off_made()
    with drawn(trade_off_figure) as figures:
        trade_off.curve_of(swept, PAIRS).draw(Path("x.png"))
    (axes,) = figures[0].axes
    assert axes.get_xlabel().startswith("RMSE of depth (m)")
    assert axes.get_ylabel().startswith("mIoU (%)")
    at = {key: (np.mean(rmse), 100 * np.mean(miou)) for key, (miou, rmse) in DENSE.items()}
    points = [tuple(line.get_xydata()[0]) for line in axes.lines if line.get_marker() not in ("", "None")]  # fmt: skip
    assert points == [pytest.approx(place) for place in at.values()]
    front = lines(axes)["Pareto front"]
    assert front == [pytest.approx(at[key]) for key in (("b", "vpretraining"), ("a", "vpretraining"))]  # fmt: skip
    filled = [line.get_markerfacecolor() for line in axes.lines if line.get_marker() not in ("", "None")]  # fmt: skip
    assert [colour != "white" for colour in filled] == [key in FRONT for key in DENSE]
    texts = {text.get_text(): text.xy for text in axes.texts}
    assert texts == {LABELS[key[0]]: pytest.approx(at[key]) for key in FRONT}
    bars = sorted(np.ptp(path.vertices[:, 1]) for bar in axes.collections for path in bar.get_paths())  # fmt: skip
    widths = sorted(np.ptp(path.vertices[:, 0]) for bar in axes.collections for path in bar.get_paths())  # fmt: skip
    assert bars[4:] == pytest.approx(sorted(200 * half(miou) for miou, _ in DENSE.values()))
    assert widths[4:] == pytest.approx(sorted(2 * half(rmse) for _, rmse in DENSE.values()))


def test_weights_that_differ_never_share_a_label():
    pairs = [(1.0, 8.0), (0.1234567, 1.0), (0.12345671, 1.0), (1e-7, 0.0)]
    labels = [trade_off._label(pair) for pair in pairs]
    assert labels[0] == "segmentation_weight=1, depth_weight=8" and len(set(labels)) == 4
    assert "segmentation_weight=0.12345671," in labels[2]


# --- what a command hands to its runs


@pytest.fixture
def handed(monkeypatch):
    """What a sweep's command hands to its runs, and where its curve goes."""

    def call(module, made, *words):
        seen = {}

        def swept(settings, options, rest, console, **more):
            seen.update(more, settings=settings, rest=rest)
            return made

        def write_curve(curve, runs, command, folder, console):
            seen.update(folder=folder, curve=curve)

        monkeypatch.setattr(module, "swept", swept)
        monkeypatch.setattr(module, "write_curve", write_curve)
        options, rest, _ = asked_of([module.KIND, *words])
        module.make(options, rest, "c")
        return seen

    return call


def test_a_sweep_over_sizes_looks_for_its_primary_metric_and_heeds_output(handed):
    made, _ = sizes_made()
    seen = handed(feedback_size, made, "--sizes", "8", "2", "4", "--primary", "loss")
    assert seen["folder"] == Path("r") and seen["curve"].content["primary"] == "loss"
    assert [one.arguments for one in seen["settings"]] == [
        ("--feedback-size", size) for size in ("2", "4", "8")
    ]
    seen["look"](made.found)
    images = [found("", 0, {"baseline": (1.0, 1.0, 1.0)}, PICTURES)]
    seen = handed(feedback_size, made, "--sizes", "2", "4", "8", "--primary", "pass_at_1", "--output", "o")  # fmt: skip
    assert seen["folder"] == Path("o") and seen["primary"] == "pass_at_1"
    with pytest.raises(UserError, match="--primary pass_at_1: not every arm has it"):
        seen["look"](images)


def test_a_trade_off_is_of_pictures_unless_a_file_says(handed):
    swept = trade_off_made()
    made = Swept(swept.folder, tuple(
        FoundRun(one.path, one.setting and LABELLED[one.setting], one.content) for one in swept.found
    ), tuple(LABELLED.values()))  # fmt: skip
    line = ["--weights", "1:0", "0.123456789:8"]
    seen = handed(trade_off, made, *line)
    assert seen["folder"] == Path("r") and seen["rest"] == ["--modality", "vision"]
    assert seen["settings"][1].arguments == ("--segmentation-weight", "0.123456789", "--depth-weight", "8")  # fmt: skip
    for said in (["--modality", "vision"], ["--preset", "p"], ["--config", "c.toml"]):
        assert handed(trade_off, made, *line, *said)["rest"] == said
    assert handed(trade_off, made, *line, "--output", "o")["folder"] == Path("o")
    seen["look"](made.found)
    with pytest.raises(UserError, match="miou and rmse was not measured"):
        seen["look"]([found("", 0, {"baseline": (1.0, 1.0)}, TEXT + PICTURES[1:])])


LABELLED = {"a": "segmentation_weight=1, depth_weight=0",
            "b": "segmentation_weight=0.123456789, depth_weight=8"}  # fmt: skip
