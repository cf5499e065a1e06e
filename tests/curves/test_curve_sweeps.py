"""Sweeps end to end at the smallest size: runs that are made, found again, put side by side."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import small_vision_run
from small_run import SMALL, new_run, same, train, words
from small_vision_run import OF_DINO, SMALL_VISION, tiny_learner

from vfunc.studies import comparison
from vfunc.studies.curves import feedback_size, swept_runs
from vfunc.training import summary
from vfunc.training.run import run
from vfunc.training.run_command_line import run_guarded

TEXT = SMALL | {"budget": "2steps", "solve_size": 0}
PICTURES = {n: v for n, v in SMALL_VISION.items() if n != "modality"} | OF_DINO


@pytest.fixture
def made(monkeypatch):
    """The runs that are made, in order, without pictures and pages."""
    monkeypatch.setattr(summary, "_plots", lambda *_: [])
    monkeypatch.setattr(summary, "_paged", lambda *_: [])
    places, carried_out = [], comparison.run

    def noted(config):
        places.append(f"{config.command.runs_dir}/{config.command.name}")
        carried_out(config)

    monkeypatch.setattr(comparison, "run", noted)
    return places


def read(folder, kind):
    content = json.loads(Path(folder, f"{kind}.json").read_text(encoding="utf-8"))
    rows = list(csv.DictReader(Path(folder, f"{kind}.csv").read_text().splitlines()))
    assert Path(folder, f"{kind}.png").read_bytes()[:4] == b"\x89PNG"
    return content, rows


def of_run(path, arm, metric="loss"):
    return json.loads(Path(path, "metrics.json").read_text())["arms"][arm]["metrics"][metric]


def test_feedback_sizes_are_run_found_again_and_added_to(curve, made, capsys, monkeypatch):
    line = ["feedback-size", "--seeds", "0", "--name", "f", "--primary", "loss", *words(TEXT)]
    line = [w for w in line if w not in ("--feedback-size", "32")]
    assert curve(*line, "--sizes", "4", "8") == 0
    assert made == ["runs/f/shared/seed0", "runs/f/feedback_size=4/seed0",
                    "runs/f/feedback_size=8/seed0"]  # fmt: skip
    more = [*line, "--sizes", "2", "8", "4"]
    assert curve(*more) == 0
    assert made[3:] == ["runs/f/feedback_size=2/seed0"]
    capsys.readouterr()
    assert curve(*more) == 0 and len(made) == 4  # nothing is run again
    shown = capsys.readouterr().out
    assert "One seed: no interval over seeds, and no test." in shown
    assert "baseline: one run a seed for all sizes" in shown
    content, rows = read("runs/f", "feedback-size")
    assert content["sizes"] == [2, 4, 8] and content["primary"] == "loss"
    assert content["command"].startswith("vfunc curve feedback-size --seeds 0")
    points = {(p["feedback_size"], p["arm"]): p for p in content["points"]}
    assert len(points) == 6 and all(p["examples"] == n for (n, _), p in points.items())
    for size in (2, 4, 8):
        base, arm = (points[size, arm]["metrics"]["loss"] for arm in ("baseline", "vpretraining"))
        assert base["values"] == [of_run("runs/f/shared/seed0", "baseline")]
        assert arm["values"] == [of_run(f"runs/f/feedback_size={size}/seed0", "vpretraining")]
        assert arm["difference"]["mean"] == pytest.approx(arm["mean"] - base["mean"])
    assert [(r["feedback_size"], r["arm"], float(r["mean"])) for r in rows] == [
        (str(n), arm, p["metrics"]["loss"]["mean"]) for (n, arm), p in points.items()
    ]
    looked, jobs = [], []
    with monkeypatch.context() as patch:
        carried_out = swept_runs.carried_out
        patch.setattr(feedback_size, "require_same_evaluation", looked.append)
        patch.setattr(
            swept_runs, "carried_out", lambda planned, n, *a: jobs.append(n) or carried_out(planned, 1, *a)
        )  # fmt: skip
        assert curve(*more, "--jobs", "2", "--output", "elsewhere") == 0
    assert jobs == [2] and read("elsewhere", "feedback-size")[1] == rows
    # what finished runs say of their data counts
    assert {label: d["feedback"]["sequences"] for label, d in looked[0].items()} == {
        "": 1024, "feedback_size=2": 2, "feedback_size=4": 4, "feedback_size=8": 8}  # fmt: skip
    capsys.readouterr()
    assert curve(*more, "--dry-run") == 0
    assert capsys.readouterr().out.count("finished ") == 4 and len(made) == 4
    assert curve(*more, "--lr", "0.5") == 2
    assert "was run with other options (lr" in capsys.readouterr().err


def test_what_is_held_out_must_not_depend_on_the_feedback(refused, made):
    examples = [{"prompt": f"{n} + 1 =", "completion": f" {n + 1}"} for n in range(8)]
    for name, part in (("s", examples), ("f", examples[:4]), ("e", examples[2:])):
        text = "".join(json.dumps(example) + "\n" for example in part)
        Path(f"{name}.jsonl").write_text(text)
    data = ["--stream", "s.jsonl", "--feedback", "f.jsonl", "--eval", "e.jsonl"]
    rest = ["--seeds", "0", "--batch-size", "2", "--budget", "1steps", "--no-certify",
            "--data-cache", "no"]  # fmt: skip
    said = refused("feedback-size", "--sizes", "1", "4", *data, *rest)
    assert "which examples are held out depends on the size" in said and "not in --feedback" in said
    data[-1] = "s2.jsonl"
    Path("s2.jsonl").write_text(json.dumps({"prompt": "9 + 1 =", "completion": " 10"}) + "\n")
    said = refused("feedback-size", "--sizes", "2", "4", "16", *data, *rest)
    assert "--sizes 16: the feedback holds 4 examples; leave" in said
    said = refused("feedback-size", "--sizes", "2", "16", *data, *rest)
    assert "--sizes 16: the feedback holds 4 examples; leave" in said
    assert made == [] and not Path("runs").exists()


def test_the_baseline_does_not_depend_on_the_size_of_the_feedback():
    few, many = (train("baseline", feedback_size=n) for n in (4, 32))
    assert same(few.theta, many.theta) and few.evaluation == many.evaluation
    few, many = (new_run("vpretraining", feedback_size=n) for n in (4, 32))
    assert few.workload.data.feedback.distinct == 4 and many.workload.data.feedback.distinct == 32
    few, many = (small_vision_run.train("baseline", feedback_size=n) for n in (4, 8))
    assert same(dict(few.state.learner.named_parameters()),
                dict(many.state.learner.named_parameters()))  # fmt: skip
    assert few.evaluation == many.evaluation


def test_a_trade_off_has_both_figures_at_each_pair_of_weights(curve, refused, made, capsys):
    line = ["trade-off", "--weights", "1:0", "1:8", "--seeds", "0", "--name", "t"]
    line += words(PICTURES | {"learner": tiny_learner()})
    assert curve(*line) == 0
    places = ["shared", "segmentation_weight=1,depth_weight=0", "segmentation_weight=1,depth_weight=8"]  # fmt: skip
    assert made == [f"runs/t/{place}/seed0" for place in places]
    content, rows = read("runs/t", "trade-off")
    assert [(p["arm"], p["segmentation_weight"], p["depth_weight"]) for p in content["points"]] == [
        ("baseline", None, None), ("vpretraining", 1.0, 0.0), ("vpretraining", 1.0, 8.0)]  # fmt: skip
    arms = ("baseline", "vpretraining", "vpretraining")
    for point, place, arm, row in zip(content["points"], places, arms, rows, strict=True):
        for metric in ("miou", "rmse"):
            assert point[metric]["values"] == [of_run(f"runs/t/{place}/seed0", arm, metric)]
            assert float(row[metric]) == point[metric]["mean"]
        beaten = any(
            other["miou"]["mean"] >= point["miou"]["mean"]
            and other["rmse"]["mean"] <= point["rmse"]["mean"]
            and (other["miou"]["mean"], other["rmse"]["mean"])
            != (point["miou"]["mean"], point["rmse"]["mean"])
            for other in content["points"]
        )
        assert point["on_front"] == (not beaten) == (row["on_front"] == "True")
    config = Path("runs/t", places[2], "seed0/config.toml").read_text()
    assert "segmentation_weight = 1.0" in config and "depth_weight = 8.0" in config
    # what is shared has no setting's weights, so that others can be added in front
    assert "depth_weight = 1.0" in Path("runs/t/shared/seed0/config.toml").read_text()
    shown = capsys.readouterr().out
    assert "1 : 8" in shown and "One seed: no interval" in shown
    assert curve(*line) == 0 and len(made) == 3
    # what a run on pictures does not leave
    said = refused("probe", "--from", f"runs/t/{places[2]}/seed0")
    assert "the encoder alone is kept" in said and "--leave-checkpoints" in said
    assert "of pictures, and Pass@k is of problems" in refused(
        "pass-at-k", "--from", "runs/t/shared"
    )
    assert "--eval-every 0.1" in refused("tokens", "--from", "runs/t/shared")


def test_a_finished_run_on_pictures_is_probed_by_its_last_checkpoint(curve, monkeypatch, made):
    options = SMALL_VISION | OF_DINO | {"learner": tiny_learner(), "arms": "vpretraining"}
    assert run_guarded(run, [*words(options), "--name", "v", "--leave-checkpoints"]) == 0
    assert curve("probe", "--from", "runs/v", "--batches", "5") == 0
    content, rows = read("runs/v-curves", "probe")
    (one,) = content["points"]
    assert one["whole"] and one["step"] == 2 and len(rows) == 20


def test_labels_of_one_kind_alone_make_no_trade_off(refused, made):
    options = PICTURES | {"learner": tiny_learner(), "labels": "segmentation"}
    line = ["trade-off", "--weights", "1:0", "2:0", "--seeds", "0", *words(options)]
    assert "--depth-weight does nothing here" in refused(*line)
    assert made == []


def test_arms_without_feedback_are_refused(refused, made):
    line = ["trade-off", "--weights", "1:0", "2:0", "--arms", "baseline"]
    assert "none of them sees feedback" in refused(*line)
    line = ["feedback-size", "--sizes", "8", "16", "--arms", "baseline"]
    assert "--arms baseline: none of them sees feedback" in refused(*line)
    assert made == []
