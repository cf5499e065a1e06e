"""What goes wrong is one line and an exit code; nothing is lost, nothing is half made."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import time
from pathlib import Path

import pytest
import torch

from vfunc import designer_file
from vfunc.designer_file import save_designer
from vfunc.language.soft_targets.designer import DesignerConfig, TopKDesigner
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.language.workload import LanguageWorkload
from vfunc.report.events import EventLog, read_events
from vfunc.training import checkpoint, loop, run
from vfunc.training.run_directory import ENTRIES


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    monkeypatch.setattr("vfunc.training.summary._plots", lambda *_: [])


@pytest.fixture
def line(capsys):
    """The one line on stderr, besides the display: progress, and which engine estimates."""

    def read():
        shown = capsys.readouterr().err.splitlines()
        lines = [s for s in shown if "tokens/s" not in s and not s.startswith("engine ")]
        assert len(lines) == 1 and lines[0].startswith("error: "), lines
        return lines[0]

    return read


def at_step(monkeypatch, module, name, number, spoil):
    """Spoil what a function returns, from the learner's step of that number on."""
    original = getattr(module, name)

    def spoiled(*args, **kwargs):
        found = original(*args, **kwargs)
        return spoil(found) if steps[0] >= number else found

    steps = [0]
    stepped = loop.optimizer_step

    def counting(*args):
        norm = stepped(*args)
        steps[0] += 1
        return norm

    monkeypatch.setattr(loop, "optimizer_step", counting)
    monkeypatch.setattr(module, name, spoiled)


def nan_gradient(loss):
    loss.register_hook(lambda g: g * float("nan"))
    return loss


def nan_value(problem):
    return dataclasses.replace(
        problem, feedback_loss=lambda t: problem.feedback_loss(t) * torch.nan
    )


SPOILED = [
    (LanguageWorkload, "loss", lambda loss: loss * torch.inf, "the learner's loss is inf"),
    (LanguageWorkload, "loss", nan_gradient, "the learner's gradient is nan"),
    (LanguageWorkload, "problem", nan_value, "the value is nan"),
]


@pytest.mark.parametrize(("module", "name", "spoil", "said"), SPOILED, ids=[s[3] for s in SPOILED])
def test_training_that_breaks_down_can_go_on(
    command, monkeypatch, tmp_path, line, module, name, spoil, said
):
    options = {"arms": "vpretraining", "budget": "4steps", "save_every": 0.5}
    assert command("--name", "whole", **options) == 0
    with monkeypatch.context() as patch:
        at_step(patch, module, name, 3, spoil)
        assert command("--name", "x", **options) == 1
    message = line()
    assert message.startswith(f"error: {said} (arm vpretraining, step 3")
    reason = json.loads((tmp_path / "runs/x/diverged.json").read_text())["reason"]
    assert reason.startswith(f"{said} (arm vpretraining, step 3") and "--resume" not in reason
    assert message.endswith("the last good state is in runs/x/checkpoints, for --resume x")
    saved = torch.load(tmp_path / "runs/x/checkpoints/vpretraining.pt", weights_only=True)
    assert saved["counters"]["step"] == 2
    assert all(bool(torch.isfinite(x).all()) for x in saved["learner"].values())
    assert command("--resume", "x", small_data=False) == 0
    assert not (tmp_path / "runs/x/diverged.json").exists()
    whole, gone_on = (
        json.loads((tmp_path / "runs" / n / "arms/vpretraining.json").read_text())
        for n in ("whole", "x")
    )
    assert whole["metrics"] == gone_on["metrics"] and whole["outcomes"] == gone_on["outcomes"]


def test_a_step_far_too_long_stops_the_run_and_keeps_the_start(command, tmp_path, line):
    options = {"arms": "baseline,vpretraining", "lr": 1e30, "save_every": 0.25, "budget": "4steps"}
    assert command("--name", "x", **options) == 1
    message = line()
    assert "is nan (arm baseline, step 1" in message and "--resume x" in message
    saved = torch.load(tmp_path / "runs/x/checkpoints/baseline.pt", weights_only=True)
    assert saved["counters"]["step"] == 0
    assert max(float(x.abs().max()) for x in saved["learner"].values()) < 1e3
    assert command("--resume", "x", small_data=False) == 1  # the same again, as it must be
    assert "is nan (arm baseline, step 1" in line()


def test_a_last_step_too_long_is_no_result(command, tmp_path, line):
    assert command("--name", "x", arms="baseline,vpretraining", lr=1e30, budget="1steps") == 1
    assert "the held-out loss is nan (arm baseline, step 1)" in line()
    assert not (tmp_path / "runs/x/arms").exists()


def no_space(*args, **kwargs):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_at_a_checkpoint(command, monkeypatch, tmp_path, line):
    options = {"arms": "baseline,vpretraining", "budget": "4steps", "save_every": 0.5}
    with monkeypatch.context() as patch:
        save, calls = torch.save, []

        def fills_up(content, path):
            calls.append(path)
            if len(calls) == 3:  # at the start, halfway, and now
                Path(path).write_bytes(b"half of it")
                raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos")
            save(content, path)

        patch.setattr(checkpoint.torch, "save", fills_up)
        assert command("--name", "x", **options) == 1
    message = line()
    assert "is the disk full?" in message and message.endswith("runs/x/checkpoints/baseline.pt")
    names = sorted(p.name for p in (tmp_path / "runs/x/checkpoints").iterdir())
    assert names == ["baseline.previous.pt", "baseline.pt"]
    saved = torch.load(tmp_path / "runs/x/checkpoints/baseline.pt", weights_only=True)
    assert saved["counters"]["step"] == 2
    assert command("--resume", "x", small_data=False) == 0


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (EventLog, "_append"),
        (checkpoint.os, "replace"),
        (checkpoint.tempfile, "mkstemp"),
        (designer_file, "save_file"),
    ],
    ids=["events", "rename", "temporary", "designer"],
)
def test_a_full_disk_is_one_line_that_names_the_file(
    command, monkeypatch, tmp_path, line, where, what
):
    with monkeypatch.context() as patch:
        patch.setattr(where, what, no_space)
        assert command("--name", "x", arms="vpretraining", budget="1steps") == 1
    message = line()
    assert message.startswith("error: No space left on device: runs/x/")
    assert not list(tmp_path.rglob(".*.*"))


def test_a_log_on_a_full_device(command, monkeypatch, tmp_path, line):
    monkeypatch.setattr("vfunc.training.run_directory.RunDirectory.events", Path("/dev/full"))
    monkeypatch.setattr(EventLog, "_end_last_line", lambda self: None)
    monkeypatch.setattr(run, "_forget_events_after", lambda *args: None)
    monkeypatch.setattr(EventLog, "_append", lambda self, data: self._file.write(data) and None)
    assert command("--name", "x", budget="1steps") == 1
    assert line() == "error: No space left on device: /dev/full"


def test_a_run_is_never_overwritten_unasked(command, tmp_path, line):
    options = {"arms": "baseline,vpretraining", "budget": "1steps"}
    assert command("--name", "x", **options) == 0
    found = {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()}
    assert {p.name for p in (tmp_path / "runs/x").iterdir()} <= set(ENTRIES)
    assert command("--name", "x", **options, lr=1e-4) == 2
    message = line()
    assert "--overwrite" in message and "--resume x" in message
    assert {p: p.read_bytes() for p in (tmp_path / "runs").rglob("*") if p.is_file()} == found
    assert command("--name", "x", "--overwrite", **options, lr=1e-4) == 0
    assert "lr = 0.0001" in (tmp_path / "runs/x/config.toml").read_text()
    assert {e["step"] for e in read_events(tmp_path / "runs/x/events.jsonl") if "step" in e} == {
        0,
        1,
    }


@pytest.mark.parametrize(
    "held", [["thesis.tex"], ["config.toml", "thesis.tex"], ["config.toml", ".git"]]
)
def test_what_is_no_run_is_never_deleted(command, tmp_path, line, held):
    folder = tmp_path / "runs/x"
    folder.mkdir(parents=True)
    for name in held:
        (folder / name).write_text("precious")
    assert command("--name", "x", "--overwrite") == 2
    assert "left alone" in line()
    assert sorted(p.name for p in folder.iterdir()) == sorted(held)


def test_a_file_in_the_place_of_a_run_is_left_alone(command, tmp_path, line):
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs/x").write_text("precious")
    assert command("--name", "x", "--overwrite") == 2
    assert "is not a run's directory" in line()


FILES = {"feedback": "good.jsonl", "eval": "good.jsonl"}
BAD = [
    ({"estimator": "first_ordr"}, "unknown estimator 'first_ordr'.*implicit"),
    ({"estimator": "no.such:Thing"}, "cannot be imported"),
    ({"estimator": "unrolled", "lookahead_steps": 2, "engine": "linear"}, "--engine linear"),
    (
        {"estimator": "zero", "engine": "reverse"},
        "--engine does nothing here: the estimator 'zero' does not use it",
    ),
    ({"align": "last:99"}, "N from 1 to .*blocks"),
    ({"align": "re:nothing_like_it"}, "selects no trainable parameter; the learner has .* blocks"),
    ({"top_k": 10**6}, "--top-k 1000000 does not fit the learner's vocabulary of"),
    ({"learner": "./no/such"}, "'./no/such' does not exist"),
    ({"learner": "empty"}, "has no config.json"),
    ({"designer": "absent.safetensors"}, "absent.safetensors' does not exist"),
    ({"designer": "good.jsonl"}, "cannot be read"),
    ({"device": "cuda:77"}, "--device 'cuda:77'"),
    ({"stream": "absent.jsonl", **FILES}, "absent.jsonl: there is no such file"),
    ({"stream": "bad.jsonl", **FILES}, "bad.jsonl, line 2.*malformed JSON"),
    ({"stream": "none.jsonl", **FILES}, "none.jsonl"),
    ({"stream": "short.txt", **FILES, "eval_fields": "prompt=nope,completion=answer"}, "nope"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=[said for _, said in BAD])
def test_what_the_user_can_mend_exits_2_and_leaves_nothing(command, tmp_path, line, options, said):
    good = json.dumps({"question": "1 + 1?", "answer": "It is 2. #### 2"}) + "\n"
    (tmp_path / "good.jsonl").write_text(good)
    (tmp_path / "bad.jsonl").write_text(good + "{broken\n")
    (tmp_path / "none.jsonl").write_text("")
    (tmp_path / "short.txt").write_text("Some text that is long enough to be read. " * 20)
    (tmp_path / "empty").mkdir()
    before = sorted(p.name for p in tmp_path.iterdir())
    own = "stream" in options
    assert command(small_data=not own, **options) == 2
    assert re.search(said, line())
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_a_designer_of_another_vocabulary_exits_2(command, tmp_path, line):
    designer = TopKDesigner(DesignerConfig(77, TargetForm("gate", 1.0), 8, 1, 2))
    save_designer(designer, tmp_path / "other.safetensors")
    assert command(designer="other.safetensors") == 2
    assert "made for a vocabulary of 77 tokens" in line()
    assert not (tmp_path / "runs").exists()


def test_debug_shows_where(command, capsys):
    assert command("--debug", align="re:nothing") == 2
    said = capsys.readouterr().err
    assert "Traceback" in said and said.splitlines()[-1].startswith("error: ")


def test_a_hub_learner_without_a_network_fails_at_once(command, monkeypatch, tmp_path, line):
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("vfunc.hub.TIMEOUT", 0.001)
    began = time.monotonic()
    assert command(learner="nobody/has-this-learner") == 2
    assert time.monotonic() - began < 5
    message = line()
    assert "'nobody/has-this-learner'" in message and "Hub cannot be reached" in message
    assert not (tmp_path / "runs").exists()
