"""What a run of several metrics leaves at its end, on a made-up vision workload."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
import torch
from rich.console import Console

from vfunc.evaluation.pass_at_k import holm, paired_difference
from vfunc.language.workload import LanguageWorkload
from vfunc.modality import Metric, Modality, Reporting, Saving
from vfunc.report.events import EventLog
from vfunc.report.measures import Measures
from vfunc.training.assemble import Assembled
from vfunc.training.build.configuration import resolve
from vfunc.training.checkpoint import write_json
from vfunc.training.run_directory import RunDirectory
from vfunc.training.summary import compare_with_baseline, finish

VISION = Measures(
    "images",
    (
        Metric("loss", "held-out\nloss", outcomes="loss"),
        Metric("miou", "mIoU\n%", "%", True, outcomes="picture_iou", scale=100.0, digits=1),
        Metric("rmse", "RMSE\nm", "m", outcomes="rmse", digits=3),
        Metric("linear", "linear\naccuracy\n%", "%", True, scale=100.0, digits=1),
    ),
)
ARMS = ("baseline", "vpretraining", "random_feedback")
FIGURES = {
    "baseline": {"loss": 1.5, "miou": 0.412, "rmse": 0.530, "linear": 0.80},
    "vpretraining": {"loss": 1.4, "miou": 0.447, "rmse": 0.498, "linear": 0.81},
    "random_feedback": {"loss": 1.6, "miou": 0.409, "rmse": 0.551, "linear": 0.79},
}
PICTURES = {  # the second picture has no labels
    "baseline": {"loss": [1.5, 1.5], "picture_iou": [0.40, None, 0.30, 0.5], "rmse": [0.5, 0.6]},
    "vpretraining": {"loss": [1.4, 1.3], "picture_iou": [0.45, None, 0.36, 0.5], "rmse": [0.4, 0.55]},
    "random_feedback": {"loss": [1.6, 1.7], "picture_iou": [0.39, None, 0.31, 0.4], "rmse": [0.6, 0.65]},
}  # fmt: skip


def result(arm: str) -> dict:
    return {
        "arm": arm,
        "steps": 160,
        "images": 5120,
        "seconds": 10.0,
        "metrics": FIGURES[arm] | {"miou_standard_error": 0.013},
        "outcomes": PICTURES[arm],
    }


@pytest.fixture
def finished(tmp_path: Path) -> SimpleNamespace:
    """The end of a made-up run: its directory and what it printed."""
    directory = RunDirectory(tmp_path / "run")
    for arm in ARMS:
        write_json(directory.result(arm), result(arm))
    write_json(directory.start, {"loss": 1.9, "miou": 0.2, "rmse": 0.9, "linear": 0.5})
    with EventLog(directory.events) as log:
        for arm in ARMS:
            for step in (0, 80, 160):
                counted = {"arm": arm, "step": step, "images": 32 * step, "seconds": 1.0}
                followed = {"heldout_loss": 2 - step / 200, "miou": 0.2 + step / 1000}
                last = {"rmse": 0.5, "linear": 0.8} if step == 160 else {}
                log.write({"kind": "evaluation", **counted, **followed, **last})
            log.write({"kind": "step", **counted, "value": 0.1, "kept": 0.6, "objective": 0.1})
            probe = {"kind": "probe", "arm": arm, "step_kind": "small", "feedback": "same"}
            for n in range(6):
                log.write(probe | {"predicted": n / 1e3, "realised": (n + n % 2) / 1e3})
    reporting = Reporting("images", VISION.metrics, (), {"stream": 9}, MagicMock())
    unused = object.__new__(LanguageWorkload)
    modality = Modality(unused, reporting, Saving(MagicMock(), MagicMock()))
    config = resolve({"arms": ",".join(ARMS)})
    parts = Assembled(config, torch.nn.Identity(), modality, torch.device("cpu"))
    shown = io.StringIO()
    finish(parts, directory, Console(file=shown, width=80))
    return SimpleNamespace(directory=directory, shown=shown.getvalue())


def test_metrics_json_says_what_its_figures_are(finished) -> None:
    content = json.loads(finished.directory.metrics.read_text())
    assert content["unit"] == "images"
    assert tuple(Metric(**fields) for fields in content["metrics"]) == VISION.metrics
    assert content["arms"]["baseline"]["images"] == 5120
    compared = content["against_baseline"]
    assert list(compared) == ["vpretraining", "random_feedback"]
    for arm in compared:
        assert list(compared[arm]) == ["loss", "miou", "rmse"]  # accuracy has no outcomes


def test_the_tables_are_printed_and_written(finished) -> None:
    text = (finished.directory.path / "table.txt").read_text()
    page = (finished.directory.path / "table.md").read_text()
    assert max(map(len, finished.shown.splitlines())) <= 80
    for line in text.splitlines():
        assert line.rstrip() in finished.shown
    assert "### against the baseline" in page and "against the baseline" in text
    assert "| vpretraining | 160 | 5.1k | 512 | 1.4000 | 44.7 ± 1.3 | 0.498 | 81.0 |" in page
    assert "| start | 0 | 0 | 0 | 1.9000 | 20.0 | 0.900 | 50.0 |" in page
    assert "nat" not in page and "predicted 10⁻³ |" in page


def test_figures_and_paired_differences_stand_side_by_side(finished) -> None:
    page = (finished.directory.path / "table.md").read_text()
    rows = [[c.strip() for c in line.strip("|").split("|")] for line in page.splitlines()]
    start = rows.index(["metric", "arm", "difference", "per picture", "p"])
    table = rows[start + 2 : start + 10]
    assert [row[0] for row in table[::2]] == ["linear accuracy % ↑", "RMSE m ↓", "mIoU % ↑", "held-out loss ↓"]  # fmt: skip
    assert table[0][1:] == ["vpretraining", "+1.0", "–", "–"]
    assert table[2][1:4] == ["vpretraining", "-0.032", "-0.075 ± 0.025"]
    # per picture (.05 + .06 + 0) / 3; of all pictures .447 - .412
    assert table[4][1:4] == ["vpretraining", "+3.5", "+3.7 ± 1.9"]
    assert table[5][1:4] == ["random_feedback", "-0.3", "-3.3 ± 3.4"]


def test_what_is_drawn(finished) -> None:
    names = sorted(path.name for path in finished.directory.plots.iterdir())
    assert names == ["learning_curves.png", "probe.png", "value_curves.png"]


def test_holm_runs_over_the_arms_of_one_metric() -> None:
    arms = {arm: result(arm) for arm in ARMS}
    compared = compare_with_baseline(arms, VISION.metrics)
    for metric, key in (("loss", "loss"), ("miou", "picture_iou"), ("rmse", "rmse")):
        numbers = {arm: [x for x in PICTURES[arm][key] if x is not None] for arm in ARMS}
        plain = [paired_difference(numbers[arm], numbers["baseline"]) for arm in ARMS[1:]]
        for arm, d, p in zip(ARMS[1:], plain, holm([d.p_value for d in plain]), strict=True):
            assert compared[arm][metric] == {**d._asdict(), "p_value_holm": p}


def test_what_one_arm_alone_has_no_number_for_is_not_compared() -> None:
    arms = {arm: result(arm) for arm in ARMS[:2]}
    assert "rmse" in compare_with_baseline(arms, VISION.metrics)["vpretraining"]
    compared = compare_with_baseline(arms, VISION.metrics)["vpretraining"]
    assert math.isclose(compared["miou"]["difference"], 0.11 / 3)
    # as many numbers as the baseline has, but of other pictures
    broken = PICTURES["vpretraining"] | {"picture_iou": [0.45, 0.2, None, 0.5]}
    arms["vpretraining"] = arms["vpretraining"] | {"outcomes": broken}
    compared = compare_with_baseline(arms, VISION.metrics)["vpretraining"]
    assert list(compared) == ["loss", "rmse"]
    single = {arm: arms[arm] | {"outcomes": {"loss": [1.0]}} for arm in ARMS[:2]}
    assert compare_with_baseline(single, VISION.metrics) == {"vpretraining": {}}


def test_without_a_baseline_nothing_is_compared() -> None:
    assert compare_with_baseline({"own": result("baseline")}, VISION.metrics) == {}
