"""Two steps on real pictures, through the command: street scenes, depth of a room, microscopy."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import pytest

from vfunc.training.run import run
from vfunc.training.run_command_line import run_guarded
from vfunc.vision.data.folders import folder_data

DATA = Path(os.environ.get("VFUNC_DATA_DIR") or "real-data")
SMALL = {
    "batch_size": 2, "head_size": 4, "feedback_batch_size": 2, "head_steps": 5, "probe_steps": 5,
    "eval_size": 6, "fit_size": 6, "budget": "2steps", "meta_period": 1, "eval_every": 0,
    "probe_batches": 1, "threads": 1, "device": "cpu", "image_size": 32, "local_size": 16,
}  # fmt: skip


def folder(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"VFUNC_DATA_DIR names no folder with {name}")
    return DATA / name


@pytest.mark.parametrize(
    ("name", "options", "metric", "column"),
    [
        ("camvid", {"void_label": 11}, "miou", "mIoU"),
        ("em_membrane", {}, "miou", "mIoU"),
        ("rgbd", {}, "rmse", "RMSE"),
    ],
)
def test_two_steps_on_real_pictures(tmp_path, monkeypatch, capfd, name, options, metric, column):
    source = folder(name)
    monkeypatch.chdir(tmp_path)
    given = {"modality": "vision", "feedback": source, "name": "here"} | SMALL | options
    argv = [part for k, v in given.items() for part in (f"--{k.replace('_', '-')}", str(v))]
    assert run_guarded(run, [*argv, "--no-certify"]) == 0
    said = capfd.readouterr()
    assert column in said.out and "vpretraining" in said.out
    assert "Warning" not in said.out + said.err and "Traceback" not in said.err
    made = tmp_path / "runs" / "here"
    for arm in ("baseline", "vpretraining"):
        found = json.loads((made / "arms" / f"{arm}.json").read_text())
        assert found["steps"] == 2 and found["images"] == 4
        assert math.isfinite(found["metrics"][metric]) and found["metrics"][metric] > 0
        if metric == "miou":
            assert found["metrics"][metric] <= 1
    values = [
        event["value"]
        for row in (made / "events.jsonl").read_text().splitlines()
        if "value" in (event := json.loads(row)) and event["arm"] == "vpretraining"
    ]
    assert len(values) == 2 and all(values)
    assert (made / "plots" / "value_map_vpretraining.png").stat().st_size > 5000


def sized(name, void=None):
    return folder_data(
        folder(name),
        image_size=(32, 32),
        stream=None,
        eval_dir=None,
        split="test",
        tasks=None,
        void=void,
        depth_scale=0.001,
        seed=0,
        counts={"heads": 4, "feedback": 4, "fit": 4, "test": 4},
    )


def test_void_is_no_class_of_the_street_scenes():
    assert sized("camvid", void=11).classes == {"segmentation": 11}
    assert sized("camvid").classes == {"segmentation": 12}
    assert sized("em_membrane").classes == {"segmentation": 2}


def test_the_room_is_metres_deep():
    depth = sized("rgbd").test[0].depth
    known = depth[depth > 0]
    assert len(known) > depth.numel() // 2
    assert float(known.min()) > 0.3 and float(known.max()) < 10
