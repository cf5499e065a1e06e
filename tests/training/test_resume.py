"""A run that was stopped and resumed is the run that was not: parameters, metrics, events."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file

from vfunc.report.events import read_events
from vfunc.training import loop, run
from vfunc.training.build.configuration import COMMAND

ARMS = "baseline,vpretraining"
PLAIN = {"arms": ARMS, "budget": "6steps", "eval_every": 1 / 3, "probe_batches": 2, "accumulate": 2,
         "save_every": 0.5, "meta_period": 2}  # fmt: skip
DEFLATED = PLAIN | {"value": "deflated", "means": 2, "mean_decays": (0.5, 0.9)}
DROPOUT = PLAIN | {"lora_rank": 2, "lora_dropout": 0.5, "estimate_mode": "train"}
TIMES = ("seconds", "wall_seconds", "units_a_second", "tokens_per_second")


@pytest.fixture(autouse=True)
def _without_pictures(monkeypatch):
    monkeypatch.setattr("vfunc.training.summary._plots", lambda *_: [])


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in TIMES}
    return [timeless(v) for v in value] if isinstance(value, list) else value


def contents(path, learners=2):
    """Everything in a run's directory, without times."""
    assert not list((path / "checkpoints").iterdir())
    events = read_events(path / "events.jsonl")
    tensors = {p.relative_to(path): load_file(p) for p in path.rglob("*.safetensors")}
    assert len(tensors) == learners + (learners > 1)  # and a designer
    results = {p.name: json.loads(p.read_text()) for p in path.glob("arms/*.json")}
    metrics = json.loads((path / "metrics.json").read_text())
    metrics.pop("git_commit")  # a commit may come between two runs
    metrics["config"] = {k: v for k, v in metrics["config"].items() if k not in COMMAND}
    return timeless(events), tensors, timeless(results), timeless(metrics)


def require_equal(one, other):
    (events, tensors, *rest), (events_too, tensors_too, *rest_too) = one, other
    assert events == events_too
    assert tensors.keys() == tensors_too.keys()
    for name, found in tensors.items():
        assert all(torch.equal(x, tensors_too[name][k]) for k, x in found.items()), name
    assert rest == rest_too


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Uninterrupted runs, made once."""
    made = {}

    def get(command, key, options):
        if key not in made:
            root = tmp_path_factory.mktemp("undisturbed")
            assert command("--name", "x", runs_dir=root, **options) == 0
            made[key] = contents(root / "x")
        return made[key]

    return get


def interrupt_at(monkeypatch, arm, step, signum=signal.SIGINT):
    """A signal while that step is taken."""
    taken = loop.optimizer_step

    def signalled(run):
        if (run.arm.name, run.state.counters.step) == (arm, step):
            os.kill(os.getpid(), signum)
        return taken(run)

    monkeypatch.setattr(loop, "optimizer_step", signalled)


def fail_at(monkeypatch, arm, step):
    """The process dies in that step, as far as the disk can tell."""
    taken = loop.micro_batch

    def dying(run):
        if (run.arm.name, run.state.counters.step) == (arm, step):
            raise ZeroDivisionError
        return taken(run)

    monkeypatch.setattr(loop, "micro_batch", dying)


@pytest.mark.parametrize(
    ("options", "arm", "step", "signum"),
    [
        (PLAIN, "baseline", 1, signal.SIGHUP),  # an evaluation is due right after the step
        (PLAIN, "baseline", 5, signal.SIGINT),  # the last step
        (PLAIN, "vpretraining", 2, signal.SIGTERM),  # the probe and a checkpoint are due
        (DROPOUT, "vpretraining", 3, signal.SIGINT),
        (DEFLATED, "vpretraining", 2, signal.SIGINT),
    ],
)
def test_a_signal_and_resume(
    command, monkeypatch, tmp_path, capsys, undisturbed, options, arm, step, signum
):
    # a shell that starts the tests in the background has Ctrl-C ignored
    of_the_shell = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        interrupt_at(patch, arm, step, signum)
        assert command("--name", "x", **options) == 128 + signum
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == (
        f"error: interrupted: stopped after step {step + 1} of {arm}; go on with --resume x"
    )
    before = (tmp_path / "runs/x/arms/baseline.json").stat().st_mtime_ns if step == 2 else None
    assert command("--resume", "x", small_data=False) == 0
    assert "Traceback" not in capsys.readouterr().err
    if before is not None:  # a finished arm is not trained again
        assert before == (tmp_path / "runs/x/arms/baseline.json").stat().st_mtime_ns
    require_equal(contents(tmp_path / "runs/x"), undisturbed(command, str(options), options))
    after = signal.signal(signal.SIGINT, of_the_shell)
    assert after is signal.default_int_handler


def test_a_crash_after_the_checkpoint(command, monkeypatch, tmp_path, undisturbed):
    with monkeypatch.context() as patch:
        fail_at(patch, "vpretraining", 5)  # after step 3's checkpoint and step 4's evaluation
        with pytest.raises(ZeroDivisionError):
            command("--name", "x", **PLAIN)
    log = tmp_path / "runs/x/events.jsonl"
    assert [e["step"] for e in read_events(log) if e["kind"] == "step"][-1] == 5
    with log.open("a") as file:
        file.write('{"kind": "step", "arm"')  # torn
    assert command("--resume", "x", small_data=False) == 0
    require_equal(contents(tmp_path / "runs/x"), undisturbed(command, str(PLAIN), PLAIN))


def test_a_crash_while_results_are_written(command, monkeypatch, tmp_path, undisturbed):
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_json", lambda path, content: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            command("--name", "x", **PLAIN)
    assert command("--resume", "x", small_data=False) == 0
    require_equal(contents(tmp_path / "runs/x"), undisturbed(command, str(PLAIN), PLAIN))


def test_a_larger_budget_goes_on(command, monkeypatch, tmp_path):
    options = PLAIN | {"warmup": 0.0, "final_lr": 1.0}  # a schedule that the budget does not bend
    assert command("--name", "whole", **options) == 0
    with monkeypatch.context() as patch:
        interrupt_at(patch, "baseline", 1)
        assert command("--name", "x", **options | {"budget": "4steps"}) == 130
    assert command("--resume", "x", "--budget", "6steps", small_data=False) == 0
    _, whole, *_ = contents(tmp_path / "runs/whole")
    _, gone_on, results, metrics = contents(tmp_path / "runs/x")
    assert all(
        torch.equal(x, gone_on[name][k]) for name, found in whole.items() for k, x in found.items()
    )
    assert {r["steps"] for r in results.values()} == {6}
    assert metrics["config"]["budget"] == "6steps"
    assert 'budget = "6steps"' in (tmp_path / "runs/x/config.toml").read_text()


def test_arms_keep_one_budget(command, monkeypatch, tmp_path, capsys):
    with monkeypatch.context() as patch:
        interrupt_at(patch, "vpretraining", 1)
        assert command("--name", "x", **PLAIN) == 130
    capsys.readouterr()
    config = (tmp_path / "runs/x/config.toml").read_text()
    assert command("--resume", "x", "--budget", "12steps", small_data=False) == 2
    said = capsys.readouterr().err
    assert "the arm baseline of runs/x has finished with 6steps" in said and said.count("\n") == 1
    assert (tmp_path / "runs/x/config.toml").read_text() == config


def test_a_second_ctrl_c_stops_at_once(command, monkeypatch, tmp_path, capsys):
    taken = loop.micro_batch

    def impatient(run):
        if run.state.counters.step == 4:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        return taken(run)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "micro_batch", impatient)
        assert command("--name", "x", **PLAIN) == 130
    assert capsys.readouterr().err.endswith("error: interrupted: stopped; go on with --resume x\n")
    saved = torch.load(tmp_path / "runs/x/checkpoints/baseline.pt", weights_only=True)
    assert saved["counters"]["step"] == 3


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    command, monkeypatch, tmp_path, capsys, undisturbed
):
    with monkeypatch.context() as patch:
        interrupt_at(patch, "vpretraining", 4)
        assert command("--name", "x", **PLAIN) == 130
    path = tmp_path / "runs/x/checkpoints/vpretraining.pt"
    older = path.with_name("vpretraining.previous.pt")
    whole = older.read_bytes()
    path.write_bytes(path.read_bytes()[:5000])
    older.write_bytes(b"garbage")
    capsys.readouterr()
    assert command("--resume", "x", small_data=False) == 2
    said = capsys.readouterr().err
    assert "checkpoints/vpretraining.pt does not fit this run" in said and said.count("\n") == 1
    older.write_bytes(whole)
    assert command("--resume", "x", small_data=False) == 0
    said = capsys.readouterr().out
    assert "vpretraining.pt does not fit this run: it is damaged, its digest differs" in said
    assert "going on from the one before, of step 3" in said
    require_equal(contents(tmp_path / "runs/x"), undisturbed(command, str(PLAIN), PLAIN))
