"""The one-step probe of saved runs: that of the run itself at the same state."""

from __future__ import annotations

import csv
import json
import math
import re
import shutil
from pathlib import Path

import pytest
import torch

from vfunc.errors import UserError
from vfunc.report.events import read_events
from vfunc.studies.curves import saved_probe
from vfunc.studies.curves.curve_command import asked_of
from vfunc.studies.curves.saved_arm import FoundArm, find_arm, saved_arm
from vfunc.studies.curves.saved_probe import require_repeats
from vfunc.training.run_command_line import parse
from vfunc.training.run_directory import RunDirectory

NAMES = {("small", "same"): "small, same feedback", ("small", "held_out"): "small, held-out",
         ("real", "same"): "real, same feedback", ("real", "held_out"): "real, held-out"}  # fmt: skip


def arm_of(path):
    return saved_arm(find_arm(RunDirectory(path), "vpretraining", device="cpu", threads=1))


def logged(path):
    """The run's own probe, by kind of step."""
    found = {}
    for e in read_events(path / "events.jsonl"):
        if e["kind"] == "probe":
            assert e["at_step"] == 2
            pair = (e["predicted"], e["realised"])
            found.setdefault(NAMES[e["step_kind"], e["feedback"]], []).append(pair)
    return found


def test_it_is_the_run_s_own_probe_at_the_same_state(curve, interrupted, capsys):
    assert curve("probe", "--from", interrupted, "--batches", "6", "--output", "out") == 0
    content = json.loads(Path("out/probe.json").read_text())
    (one,) = content["points"]
    own = logged(interrupted)
    assert one["step"] == 2 and one["whole"] and set(own) == set(NAMES.values())
    for kind, pairs in own.items():
        made = [(p["predicted"], p["realised"]) for p in one["decreases"][kind]]
        assert made[:5] == pairs and len(made) == 6
    rows = list(csv.DictReader(Path("out/probe.csv").read_text().splitlines()))
    assert len(rows) == 24 and float(rows[0]["predicted"]) == own["small, same feedback"][0][0]
    assert Path("out/probe.png").read_bytes()[:4] == b"\x89PNG"
    found = content["agreement"]["real, same feedback"]
    low, high = found["interval"]
    assert low <= found["pearson"] <= high and found["each"][0]["count"] == 6
    shown = " ".join(capsys.readouterr().out.split())
    assert "vpretraining at step 2: 6 tasks" in shown and "the bootstrap's, over tasks" in shown


def test_a_finished_arm_is_where_its_kept_checkpoint_is(saved, tmp_path):
    kept = arm_of(saved / "s0")
    shutil.copytree(saved / "s0", tmp_path / "r")
    shutil.rmtree(tmp_path / "r/checkpoints")
    left = arm_of(tmp_path / "r")
    assert kept.whole and not left.whole
    one, other = kept.run.state, left.run.state
    for a, b in ((one.learner, other.learner), (one.designer, other.designer)):
        assert a.state_dict().keys() == b.state_dict().keys()
        assert all(torch.equal(x, b.state_dict()[name]) for name, x in a.state_dict().items())
    for name in ("step", "micro_batch", "units", "updates", "seconds"):
        assert getattr(one.counters, name) == getattr(other.counters, name), name
    rates = [state.optimizer.param_groups[0]["lr"] for state in (one, other)]
    assert other.counters.probed
    # the checkpoint's is that of the last step, the other's that of one more
    assert rates[1] <= rates[0] and one.optimizer.state and not other.optimizer.state


def test_several_runs_are_one_probe_and_what_lacks_its_moments_is_told(curve, saved, capsys):
    assert curve("probe", "--from", saved, "--batches", "5", "--output", "out") == 0
    content = json.loads(Path("out/probe.json").read_text())
    assert [one["whole"] for one in content["points"]] == [True, False]
    assert set(content["agreement"]) == {"small, same feedback", "small, held-out"}
    found = content["agreement"]["small, held-out"]
    z = [math.atanh(one["pearson"]) for one in found["each"]]
    assert found["pearson"] == pytest.approx(math.tanh(sum(z) / 2))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"The optimizer's moments are gone of: {saved}/s1." in shown


def test_what_is_not_there_is_refused(refused, saved, interrupted):
    said = refused("probe", "--from", saved / "s0", "--arm", "random_feedback")
    assert "--arm random_feedback:" in said and "it has baseline, vpretraining" in said
    shutil.copytree(interrupted, "early")
    shutil.rmtree("early/checkpoints")
    said = refused("probe", "--from", "early")
    assert "nothing of the arm vpretraining is saved yet; go on with it by --resume" in said
    shutil.copytree(interrupted, "damaged")
    checkpoint = Path("damaged/checkpoints/vpretraining.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    assert "its digest differs" in refused("probe", "--from", "damaged")
    (Path("empty") / "sub").mkdir(parents=True)
    assert "--from empty: there is no run" in refused("probe", "--from", "empty")


def edited(saved, place, name="s1", **options):
    """A copy of a run of which config.toml has other options."""
    shutil.copytree(saved / name, place)
    (place / "manifest.json").unlink()
    text = (place / "config.toml").read_text()
    for option, value in options.items():
        text, count = re.subn(rf"(?m)^{option} = .*$", f"{option} = {value}", text)
        assert count == 1, option
    (place / "config.toml").write_text(text)


def test_what_is_no_repeat_is_refused_before_anything_is_probed(refused, saved, monkeypatch):
    monkeypatch.setattr(saved_probe, "saved_arm", None)
    edited(saved, Path("lr"), lr=0.5)
    said = refused("probe", "--from", saved / "s0", "lr")
    assert "runs of one setting make a probe" in said and "(lr " in said and " and 0.5)" in said
    edited(saved, Path("twin"))
    assert "twin both have seed 1" in refused("probe", "--from", saved, "twin")
    shutil.copytree(saved / "s1", "touched")
    Path("touched/config.toml").write_text(Path("touched/config.toml").read_text() + "\n")
    assert "is not as the run wrote it" in refused("probe", "--from", saved / "s0", "touched")
    shutil.copytree(saved / "s1", "bare")
    shutil.rmtree("bare/learners")
    assert "is gone, which the run left" in refused("probe", "--from", saved / "s0", "bare")
    shutil.copytree(saved / "s0", "damaged")
    checkpoint = Path("damaged/checkpoints/vpretraining.pt")
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    assert "its digest differs" in refused("probe", "--from", saved / "s1", "damaged")
    with monkeypatch.context() as patch:
        read = {"stream": {"option": "stream", "sha256": "1", "path": "s"}}
        patch.setattr("vfunc.studies.curves.saved_arm.digests_of", lambda _: read)
        assert "was run on other data" in refused("probe", "--from", saved / "s1")
    Path("f").write_text("")
    said = refused("probe", "--from", saved, "--output", "f/sub")
    assert "--output f/sub cannot be made: f is a file" in said
    said = refused("probe", "--from", saved, "--output", "f")
    assert "--output f is a file" in said


def test_device_and_threads_are_this_machine_s(saved):
    config = find_arm(RunDirectory(saved / "s1"), "vpretraining", device="auto", threads=3).config
    assert (config.options["device"], config.run.threads) == ("auto", 3)


def test_repeats_differ_in_their_seed_alone():
    def found(name, *words):
        return FoundArm(RunDirectory(Path(name)), "vpretraining", parse(list(words)), None)

    one = found("a", "--seed", "0")
    require_repeats([one, found("b", "--seed", "1", "--name", "b", "--device", "cpu")])
    require_repeats([one, found("b", "--seed", "1", "--arms", "vpretraining")])
    with pytest.raises(UserError, match="of text and of pictures are no one probe"):
        require_repeats([one, found("b", "--modality", "vision", "--seed", "1")])
    with pytest.raises(UserError, match=r"a and b differ \(meta_period "):
        require_repeats([one, found("b", "--seed", "1", "--meta-period", "7")])
    with pytest.raises(UserError, match="b and c both have seed 1"):
        require_repeats([one, found("b", "--seed", "1"), found("c", "--seed", "1")])


def test_a_run_named_twice_is_probed_once(curve, saved, monkeypatch):
    taken = []
    monkeypatch.setattr(saved_probe, "require_repeats", taken.extend)
    monkeypatch.setattr(saved_probe, "saved_arm", None)
    with pytest.raises(TypeError):
        saved_probe.make(
            asked_of(["probe", "--from", str(saved / "s0"), f"{saved}/s1/../s0", "--device", "cpu"])[0],
            [],
            "",
        )  # fmt: skip
    assert [one.directory.path.name for one in taken] == ["s0"]


def test_a_run_may_be_named_from_within(curve, saved, monkeypatch):
    shutil.copytree(saved / "s0", "r")
    monkeypatch.chdir("r")
    there = Path.cwd().parent / "r-curves"
    assert curve("tokens", "--from", ".") == 0
    assert {path.name for path in there.iterdir()} == {"tokens.json", "tokens.csv", "tokens.png"}


def test_checkpoints_of_finished_arms_are_kept_only_when_asked(saved):
    kept = {path.name for path in (saved / "s0/checkpoints").iterdir()}
    assert kept == {"baseline.pt", "vpretraining.pt"}
    assert not list((saved / "s1/checkpoints").iterdir())
    manifest = json.loads((saved / "s0/manifest.json").read_text())
    assert "checkpoints/vpretraining.pt" in manifest["files"]
