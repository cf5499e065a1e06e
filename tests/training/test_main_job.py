"""The main job end to end: what it writes, that it loads, and that it can be repeated."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from small_run import SMALL, same, words
from transformers import AutoModelForCausalLM, AutoTokenizer

from vfunc.language.evaluation.held_out import held_out_loss
from vfunc.language.evaluation.solving import pass_at_1
from vfunc.language.soft_targets.designer import load_designer
from vfunc.report.events import read_events
from vfunc.report.page.page import page_of
from vfunc.training.assemble import assemble
from vfunc.training.run import run
from vfunc.training.run_command_line import parse, run_guarded

ALL = "baseline,vpretraining,random_feedback,uniform_smoothing,self_distillation"
ARMS = f"{ALL},confidence_gate,known_wrong".split(",")
OPTIONS = SMALL | {
    "budget": "8steps",
    "eval_every": 0.5,
    "probe_batches": 12,
    "batch_size": 4,
    "certify": True,
}
pytestmark = pytest.mark.usefixtures("deep")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run of every arm."""
    folder = tmp_path_factory.mktemp("main")
    options = OPTIONS | {"arms": ",".join(ARMS), "runs_dir": folder, "name": "x"}
    assert run_guarded(run, words(options)) == 0
    return folder / "x"


@pytest.fixture(scope="module")
def metrics(made):
    return json.loads((made / "metrics.json").read_text())


def test_metrics_say_what_was_measured_and_with_what(metrics):
    assert metrics["versions"].keys() >= {"python", "vfunc", "torch", "transformers"}
    assert metrics["versions"]["torch"] == importlib.metadata.version("torch")
    assert metrics["threads"] == 1 and metrics["device"] == "cpu"
    checkout = (Path(__file__).parents[2] / ".git").exists()
    assert not checkout or len(metrics["git_commit"].removesuffix("-dirty")) == 40
    assert {role: d["sequences"] for role, d in metrics["data"].items()} == {
        "stream": SMALL["stream_size"],
        "feedback": SMALL["feedback_size"],
        "eval": SMALL["eval_size"],
    }
    assert list(metrics["arms"]) == ARMS
    for result in metrics["arms"].values():
        assert result["steps"] == 8 and result["tokens"] > 8 * 4 * 20
        assert 0 < result["seconds"] <= result["wall_seconds"]
        found = result["metrics"]
        assert 0 < found["loss"] < 20 and found["loss_examples"] == SMALL["eval_size"]
        assert 0 <= found["pass_at_1"] <= 1 and found["pass_at_1_standard_error"] >= 0
        assert found["pass_at_1_examples"] == SMALL["eval_size"]
    assert len({r["tokens"] for r in metrics["arms"].values()}) == 1  # the same stream
    assert len({r["metrics"]["loss"] for r in metrics["arms"].values()}) == len(ARMS)
    for compared in metrics["against_baseline"].values():
        assert compared["loss"].keys() >= {"difference", "standard_error", "p_value_holm"}
    assert metrics["config"]["lr"] == 1e-3 and metrics["config"]["budget"] == "8steps"


def test_the_probes_small_steps_do_as_predicted(metrics):
    found = {(s["step"], s["feedback"]): s for s in metrics["probe"]["vpretraining"]}
    assert found.keys() == {(s, f) for s in ("small", "real") for f in ("same", "held_out")}
    assert all(s["count"] == 12 for s in found.values())
    assert found["small", "same"]["pearson"] > 0.9
    assert found["small", "same"]["spearman"] > 0.7


@pytest.mark.parametrize("arm", ["baseline", "vpretraining"])
def test_a_saved_learner_gives_its_recorded_results(made, metrics, arm):
    learner = AutoModelForCausalLM.from_pretrained(made / "learners" / arm)
    tokenizer = AutoTokenizer.from_pretrained(made / "learners" / arm)
    config = parse(["--config", str(made / "config.toml")])
    data = assemble(config).workload.data
    again = held_out_loss(learner, data.evaluation, torch.device("cpu"))
    recorded = metrics["arms"][arm]["metrics"]
    assert again.loss == recorded["loss"]
    solved = pass_at_1(learner, tokenizer, data.problems, max_new_tokens=data.max_new_tokens)
    assert solved.mean == recorded["pass_at_1"]


def test_saved_designers_load(made):
    assert {p.stem for p in (made / "designers").iterdir()} == {"vpretraining", "random_feedback"}
    designers = [load_designer(p) for p in sorted((made / "designers").iterdir())]
    assert not same(*(dict(d.named_parameters()) for d in designers))


def test_pictures_are_pictures(made):
    found = {p.stem: p.read_bytes() for p in (made / "plots").iterdir()}
    assert found.keys() >= {"learning_curves", "value_curves", "probe", "value_map_vpretraining",
                             "value_map_vpretraining_at_start"}  # fmt: skip
    assert all(content.startswith(PNG) and len(content) > 5000 for content in found.values())


def test_the_page_shows_it_all(made):
    text = (made / "report.html").read_text(encoding="utf-8")
    _, gaps = page_of([made])
    assert gaps == () and all(f">{arm}</th>" in text for arm in ARMS)
    assert text.count('<div class="map"') == 4 and "its current target" in text
    assert "realised decrease" in text and "first_order by linear" in text


def test_the_log_tells_every_step(made):
    events = read_events(made / "events.jsonl")
    for arm in ARMS:
        own = [e for e in events if e["arm"] == arm]
        assert [e["step"] for e in own if e["kind"] == "step"] == list(range(1, 9))
        assert [e["step"] for e in own if e["kind"] == "evaluation"] == [0, 4, 8]
        assert ("value" in str(own)) == (arm in ("vpretraining", "random_feedback"))
    marked = [e for e in events if "gate_on_wrong" in e and e["arm"] == "known_wrong"]
    assert marked and all(e["gate_on_wrong"] == 1 and e["gate_on_right"] == 0 for e in marked)


def losses(folder, arm):
    result = json.loads((folder / "arms" / f"{arm}.json").read_text())
    return result["outcomes"], result["metrics"], result["tokens"]


def test_the_written_configuration_repeats_the_run_in_a_process(made, tmp_path):
    """With fewer arms, in another order: arms neither see each other nor their order.

    And without the certification, which leaves no trace in what is trained.
    """
    script = Path(__file__).parents[2] / "experiments" / "run.py"
    call = [sys.executable, script, "--config", made / "config.toml", "--runs-dir", tmp_path]
    more = ["--arms", "vpretraining,baseline", "--no-certify"]
    done = subprocess.run([*call, *more], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr
    (again,) = tmp_path.iterdir()
    for arm in ("baseline", "vpretraining"):
        assert losses(made, arm) == losses(again, arm)
        learner = f"learners/{arm}/model.safetensors"
        assert (made / learner).read_bytes() == (again / learner).read_bytes()
    designer = "designers/vpretraining.safetensors"
    assert (made / designer).read_bytes() == (again / designer).read_bytes()
    assert "vpretraining" in done.stdout and str(again) in done.stdout.replace("\n", "")


def test_a_dry_run_writes_nothing(command, tmp_path, capsys):
    assert command("--dry-run") == 0
    assert 'budget = "3steps"' in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("options", [{"lora_rank": 2}, {"precision": "bfloat16"}], ids=str)
def test_adapters_and_mixed_precision_run_to_the_end(command, tmp_path, options):
    assert command("--name", "x", budget="2steps", **options) == 0
    folder = tmp_path / "runs/x"
    recorded = json.loads((folder / "metrics.json").read_text())["arms"]["vpretraining"]["metrics"]
    learner = AutoModelForCausalLM.from_pretrained(folder / "learners/vpretraining")
    assert next(learner.parameters()).dtype == torch.float32
    data = assemble(parse(["--config", str(folder / "config.toml")])).workload.data
    again = held_out_loss(learner, data.evaluation, torch.device("cpu"))
    assert again.loss == pytest.approx(
        recorded["loss"], rel=1e-6 if "lora_rank" in options else 0.02
    )


def test_data_of_ones_own(command, tmp_path):
    records = [
        {"question": f"What is {a} + {b}?", "answer": f"{a} + {b} = {a + b}\n#### {a + b}"}
        for a in range(6)
        for b in range(6)
    ]
    for name, part in (
        ("stream", records[:16]),
        ("feedback", records[16:28]),
        ("eval", records[24:]),
    ):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in part))
    files = {name: f"{name}.jsonl" for name in ("stream", "feedback", "eval")}
    more = {"budget": "2steps", "batch_size": 4, "probe_batches": 0, "targets": "free"}
    assert command("--name", "x", small_data=False, **files, **more) == 0
    metrics = json.loads((tmp_path / "runs/x/metrics.json").read_text())
    assert metrics["data"]["eval"] == {
        "sequences": 8, "dropped": {"also in the feedback": 4}, "truncated": 0,
    }  # fmt: skip
    assert metrics["arms"]["vpretraining"]["metrics"]["pass_at_1_examples"] == 8
