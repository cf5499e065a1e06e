"""Two processes that share every batch give what one gives with all of it."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import estimates_of_two
import loops_of_two
import pytest
import sharded_of_two
import torch
from small_run import SMALL, parts_of, shallow_learner, small
from test_feedback_tasks import records, written
from torch import nn

import vfunc
import vfunc.training.run as run_module
from vfunc.config.layers import Layer
from vfunc.console import call
from vfunc.errors import UserError
from vfunc.processes import which_process
from vfunc.sharding import norm_with_shards
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import resolve
from vfunc.training.files.identity import differences, digest_of_identity
from vfunc.training.run import Running, run
from vfunc.training.run_command_line import parse

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


def started_twice(*words: object, beside: tuple[Path, ...] = ()) -> subprocess.CompletedProcess:
    """`torchrun --nproc-per-node 2 words`."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    paths = os.pathsep.join(map(str, (ROOT, *beside)))
    return subprocess.run(
        [*launcher, *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    rows = records(20)
    parts = {"stream": rows[:8], "one": rows[8:13], "other": rows[13:]}
    files = [written(folder / f"{name}.jsonl", part) for name, part in parts.items()]
    output = folder / "two.json"
    done = started_twice(
        HERE / "two_processes.py", output, *files, beside=(HERE.parent, HERE.parent / "training")
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.mark.parametrize("optimizer", estimates_of_two.OPTIMIZERS)
@pytest.mark.parametrize("estimator", [*estimates_of_two.ESTIMATORS, "unrolled windows"])
def test_an_estimate_is_that_of_all_examples(both, estimator, optimizer):
    # float64; differences of gradients are no better than their step size
    most = 1e-8 if "finite" in estimator else 1e-12
    for found in both:
        assert found["estimates"][f"{estimator}, {optimizer}"] < most


@pytest.mark.parametrize("options", [*loops_of_two.LANGUAGE, *loops_of_two.VISION])
def test_the_loop_takes_the_steps_of_one_with_all_examples(both, options):
    for found in both:
        far = found["loops"][options]
        assert max(far["learner"], far["designer"]) < 1e-11
        assert far["numbers"] < 1e-10


def test_a_step_sums_the_learner_and_a_meta_step_s_and_the_designer(both):
    for found in both:
        sums = found["summed"]
        scalars = sums["summed"] - (sums["learner"] + sums["S"] + sums["designer"])
        assert sums["S"] < sums["learner"] and 0 <= scalars <= 4  # L_down, <w, g_pre>


def test_a_signal_to_one_stops_both_after_the_same_step_and_both_go_on(both):
    first, second = (found["interrupted"] for found in both)
    for found in (first, second):
        assert found["signal"] == 15
        assert found["stopped after"] == found["resumed at"] == 2
        assert found["same"]  # bit for bit, dropout drawn in each process on its own
    assert first["drawn"] != second["drawn"]


@pytest.mark.parametrize("options", sharded_of_two.SHARDED)
def test_a_learner_in_shards_takes_the_steps_of_a_whole_one(both, options):
    for found in both:
        far = found["sharded"]["distances"][options]
        assert max(far["learner"], far["designer"]) < 1e-11
        assert far["numbers"] < 1e-8 if options == "unrolled" else far["numbers"] < 1e-10


def test_of_a_learner_in_shards_the_same_is_told(both):
    mine, theirs = (both[0]["sharded"]["told"][who] for who in ("mine", "theirs"))
    kinds = {"foresight", "evaluation", "probe", "signal", "value_map"}
    assert mine.keys() == theirs.keys() == kinds
    for kind in kinds - {"value_map"}:
        told = {name for name, x in theirs[kind].items() if isinstance(x, float)}
        assert told
        for name in told - {"seconds"}:
            assert mine[kind][name] == pytest.approx(theirs[kind][name], rel=1e-8), name
    one, other = (numbers_in(told["value_map"]["values"]) for told in (mine, theirs))
    assert one and one == pytest.approx(other[: len(one)], rel=1e-8)  # of the first one's texts


def numbers_in(nested) -> list[float]:
    if isinstance(nested, list):
        return [x for one in nested for x in numbers_in(one)]
    return [nested] if isinstance(nested, float) else []


def test_each_process_holds_its_part_of_what_is_below_s_and_all_the_rest(both):
    for found in both:
        told = found["sharded"]["told"]
        assert told["in S"] == [] and 0 < told["below"] < told["all"]
        assert told["held"] == told["all"] - told["below"] // 2


def test_a_learner_in_shards_is_stopped_and_goes_on(both):
    for found in (one["sharded"]["interrupted"] for one in both):
        assert found["signal"] == 15 and found["stopped after"] == found["resumed at"] == 2
        assert found["same"]
        assert found["float32"] < 1e-5


def test_learners_that_cannot_be_spread_are_refused(both):
    for found in both:
        tied, differ, below, precisions = found["sharded"]["refused"]
        assert "shares a weight with what is not below S" in tied
        assert "the processes hold different numbers in the learner" in differ
        assert "two blocks below S share a weight" in below
        assert "parameters of a block below S are bfloat16 and float32" in precisions


def test_experts_that_one_process_alone_asks_have_their_own_gradients(both):
    assert all(found["sharded"]["experts"] < 1e-5 for found in both)


def test_a_learner_that_cannot_be_cut_is_refused_before_any_arm_trains():
    given = SMALL | {"shard_learner": True, "align": "re:embed_tokens"}
    two = vfunc.Processes(0, 2)
    with pytest.raises(UserError, match=r"model.embed_tokens.weight is in S and used below"):
        assemble(resolve(Layer(given | {"learner": shallow_learner()})), two)


def test_a_norm_without_shards_stays_on_its_device():
    (one,) = [torch.empty(3, device="meta")]  # as a GPU, where there is none
    assert norm_with_shards([one]).device == one.device
    assert norm_with_shards([]) == 0
    assert norm_with_shards([torch.tensor([3.0]), torch.tensor([4.0])]) == 5


def test_shards_are_not_for_an_optimizer_that_steps_by_sums():
    words = ["--shard-learner", "--align", "last:1", "--optimizer"]
    assert parse([*words, "adamw"]).learner_in_shards
    with pytest.raises(UserError, match=r"--shard-learner.*adafactor steps by sums"):
        parse([*words, "adafactor"])


def test_a_learner_in_shards_is_gone_before_the_next_begins(tmp_path, monkeypatch):
    class Hooked:  # as a module is by FSDP's hooks
        def __init__(self):
            self.itself = self

    held = []

    def hold(*_):
        assert not [one for one in held if one() is not None]
        held.append(weakref.ref(Hooked()))

    monkeypatch.setattr(run_module, "_evaluate_start", hold)
    monkeypatch.setattr(run_module, "_run_one", hold)
    monkeypatch.setattr(run_module, "_unfinished", lambda run: ["one", "other"])
    monkeypatch.setattr(run_module, "finish", lambda *_: None)
    workload = SimpleNamespace(processes=vfunc.Processes())
    assembled = SimpleNamespace(config=SimpleNamespace(learner_in_shards=True), workload=workload)
    running = object.__new__(Running)  # of which nothing else is asked
    directory = SimpleNamespace(path=tmp_path, diverged=tmp_path / "diverged.json")
    vars(running).update(assembled=assembled, directory=directory, console=None)
    gc.disable()
    try:
        run_module._carry_out(running)
    finally:
        gc.enable()
    assert len(held) == 3


def test_replicas_that_differ_are_refused(both):
    assert all("hold different numbers in the learner" in found["different"] for found in both)


@pytest.mark.parametrize("in_shards", [(), ("--shard-learner", "--align", "last:1")])
def test_a_run_of_two_writes_one_folder(tmp_path, in_shards):
    given = [
        *in_shards,
        *("--learner", shallow_learner(), "--arms", "baseline,vpretraining", "--budget", "2steps"),
        *("--batch-size", "2", "--stream-size", "64", "--feedback-size", "32", "--eval-size", "4"),
        *("--probe-batches", "0", "--runs-dir", tmp_path, "--name", "two", "--no-certify"),
    ]
    done = started_twice(ROOT / "experiments" / "run.py", *given)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("processes 2,") == 1 and done.stdout.count("metrics.json") == 1
    results = json.loads((tmp_path / "two" / "metrics.json").read_text())
    assert set(results["arms"]) == {"baseline", "vpretraining"}
    events = (tmp_path / "two" / "events.jsonl").read_text().splitlines()
    steps = [e for e in map(json.loads, events) if e["kind"] == "step"]
    assert [(e["arm"], e["step"]) for e in steps] == [
        (arm, k) for arm in ("baseline", "vpretraining") for k in (1, 2)
    ]
    (tmp_path / "two" / "arms" / "vpretraining.json").unlink()
    said = "and there is one: start the run by torchrun" if in_shards else "2 processes then, 1 now"
    with pytest.raises(UserError, match=said):
        run(parse(["--resume", str(tmp_path / "two")]))


@pytest.fixture
def under_torchrun(monkeypatch):
    """As `torchrun` starts the second of two."""
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("command", ["compare", "bench"])
def test_commands_of_one_process_are_refused_under_torchrun(command, under_torchrun, capsys):
    assert call(command, [], command) == 2
    assert f"process 1: {command} is for one process" in capsys.readouterr().err


def test_messages_say_which_process_they_are_of(under_torchrun, monkeypatch):
    assert which_process() == "process 1: "
    monkeypatch.setenv("RANK", "0")
    assert which_process() == ""


def test_one_process_is_what_it_is_without_torchrun():
    alone = {"x": torch.ones(2)}
    with vfunc.joined() as processes:
        assert processes == vfunc.Processes() and processes.alone and processes.first
        assert processes.summed(alone)["x"] is alone["x"]
        assert processes.totals(1.5, 2) == (1.5, 2) and processes.agreed("x") == "x"


@pytest.mark.parametrize("wrap", [nn.DataParallel, "fully_shard"])
def test_wrapped_and_sharded_learners_are_refused(wrap):
    learner = nn.Sequential(nn.Linear(2, 2))
    if wrap == "fully_shard":
        sharded = learner[0].weight
        sharded.device_mesh = "a mesh"  # what a DTensor has
        with pytest.raises(UserError, match=r"'0.weight' is a shard"):
            vfunc.functional(learner)
        return
    with pytest.raises(UserError, match=r"give functional the bare module \(.module\)"):
        vfunc.functional(wrap(learner))


def test_matched_domains_are_for_one_process():
    workload = parts_of(small()).workload
    matched = replace(workload, tasks=replace(workload.tasks, combine="matched"))
    with pytest.raises(UserError, match="--feedback-combine matched is for one process"):
        matched.among(vfunc.Processes(0, 2))
    assert matched.among(vfunc.Processes()) == matched


def test_the_number_of_processes_is_part_of_what_a_run_is():
    one = {"options": {}, "inputs": {}}  # of before there were several
    assert differences(one, one | {"processes": 1}) == []
    assert digest_of_identity(one) == digest_of_identity(one | {"processes": 1})
    assert differences(one, one | {"processes": 2}) == ["1 processes then, 2 now"]
    assert digest_of_identity(one) != digest_of_identity(one | {"processes": 2})
