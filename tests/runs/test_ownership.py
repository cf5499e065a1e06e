"""One process at a time owns a run, and replacing a run removes what a run wrote."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from unittest.mock import Mock

import pytest
from baseline_run import BASELINE

from vfunc.errors import UserError
from vfunc.storage import lock
from vfunc.storage.lock import locked
from vfunc.storage.manifest import Manifest
from vfunc.training import run
from vfunc.training.files.opening import new_folder
from vfunc.training.files.written import remove_temporary, remove_written
from vfunc.training.run_directory import RunDirectory

HOLDER = """
import sys, time
from pathlib import Path
from vfunc.storage.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def holder(folder):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    return process


def test_a_lock_is_held_by_one_and_dies_with_its_owner(tmp_path):
    owner = holder(tmp_path)
    try:
        said = rf"in use by process {owner.pid} on .*since"
        with pytest.raises(UserError, match=said), locked(tmp_path):
            pass
        os.kill(owner.pid, 9)
        owner.wait()
        assert (tmp_path / lock.NAME).exists()  # nobody removed it, and nobody minds
        said = f"process {os.getpid()} "
        with locked(tmp_path), pytest.raises(UserError, match=said), locked(tmp_path):
            pass
        assert not (tmp_path / lock.NAME).exists()
    finally:
        owner.kill()
        owner.wait()
        owner.stdin.close()
        owner.stdout.close()


def test_a_run_that_is_held_is_neither_resumed_nor_replaced(command, tmp_path, capsys):
    assert command("--name", "x", **BASELINE) == 0
    directory = RunDirectory(tmp_path / "runs/x")
    before = sorted(directory.path.rglob("*"))
    assert directory.path / ".lock" not in before
    capsys.readouterr()
    with locked(directory.path):
        assert command("--resume", "x", small_data=False) == 2
        assert command("--name", "x", "--overwrite", **BASELINE) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(f"in use by process {os.getpid()}" in line for line in said)
    assert sorted(directory.path.rglob("*")) == before


@pytest.mark.parametrize(
    ("owner", "alive"),
    [
        ({}, False),
        ({"pid": 2**22 + 1, "host": "here"}, False),
        ({"pid": os.getppid(), "host": "here"}, True),
        ({"pid": os.getppid(), "host": "here", "process_start": "1"}, False),  # its number anew
        ({"pid": 2**22 + 1, "host": "elsewhere"}, True),  # who knows
        ({"pid": "x", "host": "here"}, False),
    ],
)
def test_without_locks_a_stale_owner_is_known(tmp_path, monkeypatch, owner, alive):
    monkeypatch.setattr(lock, "fcntl", None)
    monkeypatch.setattr(lock.socket, "gethostname", lambda: "here")
    if owner.get("pid") == os.getppid():
        owner = {"process_start": lock._started(os.getppid())} | owner
    (tmp_path / lock.NAME).write_text(json.dumps(owner))
    if not alive:
        with locked(tmp_path):
            assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
        return
    with pytest.raises(UserError, match=r"in use by process \d+ on"), locked(tmp_path):
        pass


def test_two_new_runs_never_share_a_folder(tmp_path, monkeypatch):
    taken = iter(["a", "a", "a-2"])
    (tmp_path / "a").mkdir()
    monkeypatch.setattr("vfunc.training.files.opening.free_name", lambda *_: next(taken))
    assert new_folder(tmp_path, None, "a").path.name == "a-2"
    with pytest.raises(UserError, match=r"the run .*a exists"):
        new_folder(tmp_path, "a", "a")


OWN = (
    "learners/mine.txt",
    "learners/mine/model.safetensors",
    "learners/baseline/notes.md",
    "learners/baseline/checkpoints/model.safetensors",
    "plots/thesis/all.tex",
    "plots/mine.png",
    "designers/old.safetensors",
    "arms/summary.json",
    "checkpoints/keep.pt",
    "checkpoints/.keep.pt.tmp",
)


def test_overwriting_leaves_what_a_user_put_there(command, tmp_path):
    run = tmp_path / "runs/x"
    assert command("--name", "x", **BASELINE) == 0
    written = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
    for name in OWN:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("precious")
    leftover = run / "checkpoints/.baseline.pt.abcdefgh"
    leftover.write_text("a write that was killed")
    (run / "learners/linked").symlink_to(tmp_path)
    for lr in (1e-4, 1e-5):  # what is there is not taken for the run's own the second time
        assert command("--name", "x", "--overwrite", **BASELINE, lr=lr) == 0
        assert {name for name in OWN if (run / name).read_text() == "precious"} == set(OWN)
        assert not leftover.exists()
        found = {p.relative_to(run).as_posix() for p in run.rglob("*") if p.is_file()}
        assert {n for n in found if "linked" not in n} == written | set(OWN)


def test_a_run_without_a_manifest_is_removed_by_its_names(tmp_path):
    names = [
        "config.toml", "events.jsonl", "start.json", "arms/baseline.json", "plots/probe.png",
        "checkpoints/vpretraining.pt", "checkpoints/vpretraining.previous.pt",
        "designers/vpretraining.safetensors", "learners/baseline/model.safetensors",
        "learners/baseline/model-00001-of-00002.safetensors", "learners/baseline/tokenizer.json",
        "learners/vpretraining/adapter_model.safetensors", "plots/value_map_vpretraining.png",
        ".config.toml.abcdefgh", "learners/vpretraining/adapter_config.json",
    ]  # fmt: skip
    for name in (*names, *OWN):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    remove_written(tmp_path, keep=("config.toml",))
    left = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert left == {"config.toml", *OWN}


def test_what_a_manifest_lists_is_removed_whatever_its_name(tmp_path):
    directory = RunDirectory(tmp_path)
    odd = directory.learner("baseline") / "odd.bin"
    odd.parent.mkdir(parents=True)
    odd.write_text("")
    directory.keep(Manifest(directory.digests(odd)))
    remove_written(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_killed_writes_leave_nothing_behind_once_a_run_goes_on(tmp_path):
    gone = [
        ".config.toml.abcdefgh",
        "checkpoints/.baseline.pt.x1y2z3_9",
        "arms/.baseline.json.aaaaaaaa",
    ]
    kept = [".hidden", "checkpoints/.keep.pt.abcdefgh", "checkpoints/.baseline.pt.tmp", "arms/x"]
    for name in gone + kept:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    remove_temporary(tmp_path)
    assert [n for n in gone + kept if (tmp_path / n).exists()] == kept
    assert re.fullmatch(r"[a-z0-9_]{8}", "x1y2z3_9")


def test_a_lock_that_is_a_link_leaves_alone_what_it_leads_to(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / lock.NAME).symlink_to("mine")
    with pytest.raises(OSError, match=r"\.lock"), locked(tmp_path):
        pass
    assert (tmp_path / "mine").read_text() == "precious"


def test_a_place_where_no_run_can_be_is_refused_before_data_are_read(
    command, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(run, "assemble", lambda _: pytest.fail("data were read"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name, there in (("file", "file"), ("file/below/runs", "file"), ("link", "link")):
        assert command("--runs-dir", name, **BASELINE) == 2
        said = capsys.readouterr().err.splitlines()
        assert len(said) == 1
        assert said[0].startswith(f"error: --runs-dir {name}: ")
        assert f"{there} is no folder; name another place" in said[0]
    full = OSError(28, "No space left on device")
    monkeypatch.setattr("tempfile.mkdtemp", Mock(side_effect=full))
    assert command("--runs-dir", "new", **BASELINE) == 2
    assert "(No space left on device); name another place" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "link"]
