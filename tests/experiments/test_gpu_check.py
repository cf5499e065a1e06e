"""The script that makes a GPU's figures, at tiny size on a CPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from vfunc.studies import gpu_check as check

SCRIPT = Path(__file__).parents[2] / "experiments" / "gpu_check.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("gpu_check_script", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def short(monkeypatch):
    """Without whole runs, which other tests make, and for one S."""
    monkeypatch.setattr(check, "RUNS", {})
    monkeypatch.setattr(check, "SUBSETS", ("last:2",))


def test_every_section_passes_and_both_files_are_written(script, short, tmp_path, capsys):
    output = tmp_path / "made" / "here"
    given = ["--device", "cpu", "--tiny", "--repeats", "1", "--output", str(output)]
    assert script.main(given) == 0
    rows = json.loads((output / "check.json").read_text())
    assert [row["name"] for row in rows if row["verdict"] != "ok"] == []
    assert {"engines agree", "bfloat16", "training, S = last:2", "engines, S = last:2"} <= {
        row["name"] for row in rows
    }
    text = (output / "check.md").read_text()
    assert text in capsys.readouterr().out and "## vision, ViT-B with DINO" in text


def test_a_section_that_fails_leaves_the_others_their_turn(short, monkeypatch):
    def broken(shape, device):
        raise RuntimeError("CUDA error:\nan illegal address")

    monkeypatch.setattr(check, "_agreement", broken)
    monkeypatch.setattr(check, "_training", lambda *_: check.Check("", "ok", "quick"))
    monkeypatch.setattr(check, "_engines", lambda *_: check.Check("", "ok", "quick"))
    monkeypatch.setattr(check, "_vision", lambda *_, **__: check.Check("", "ok", "quick"))
    cpu = torch.device("cpu")
    found = check.gpu_check(cpu, tiny=True, repeats=1, minutes=5.0)
    verdicts = {row.name: row.verdict for row in found}
    assert verdicts.pop("engines agree") == "FAILED" and set(verdicts.values()) == {"ok"}
    assert "RuntimeError: CUDA error: an illegal address" in check.check_markdown(found, cpu)


def test_what_no_time_is_left_for_is_left_out(short):
    found = check.gpu_check(torch.device("cpu"), tiny=True, repeats=1, minutes=1e-9)
    assert {row.verdict for row in found} == {"left out"}


def test_disagreeing_engines_fail(monkeypatch):
    monkeypatch.setattr(check, "_apart", lambda one, other: 0.2)
    shape, cpu = check.SHAPES["tiny"], torch.device("cpu")
    assert check._agreement(shape, cpu).verdict == check._as_on_the_cpu(cpu).verdict == "FAILED"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--device", "cpu"], "--device cpu is for --tiny"),
        (["--device", "cuda:77"], "CUDA devices"),
        (["--repeats", "0"], "--repeats must be at least 1"),
        (["--minutes", "0"], "--minutes above 0"),
        (["--device", "cpu", "--tiny", "--output", __file__], "--output"),
        (["--tniy"], "--tniy is no option; did you mean --tiny?"),
    ],
)
def test_mistakes_are_one_line(script, given, said, tmp_path, capsys):
    output = [] if "--output" in given else ["--output", str(tmp_path)]
    assert script.main([*given, *output]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("error: ") and said in error
