"""What is stored is checked when it is read: no flipped bit, no cut file, no unsound number."""

from __future__ import annotations

import json
import os
import random
import shutil

import pytest
import torch
from small_run import new_run
from torch import nn

from vfunc.errors import UserError
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.loading import load_learner
from vfunc.language.soft_targets.designer import load_designer
from vfunc.storage import digests
from vfunc.storage.digests import begins_as, digest_of_tensors, digests_below, so_far
from vfunc.storage.manifest import Manifest, read_manifest, require_as_written
from vfunc.storage.sealed import LENGTH, seal_holds, write_sealed
from vfunc.studies.finished_runs import read_run
from vfunc.training.checkpoint import (
    load_checkpoint,
    load_newest,
    previous,
    save_checkpoint,
    write_atomically,
)
from vfunc.training.run_directory import RunDirectory


def flipped(data, bit):
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def some_bits(data, count):
    """Bits all over, and every 40th of both ends, where heads and seals are."""
    bits = 8 * len(data)
    drawn = random.Random(0).sample(range(bits), count)
    return {*drawn, *range(0, 1600, 40), *range(bits - 8 * LENGTH - 1600, bits, 40)}


@pytest.fixture(scope="module")
def run():
    """An arm with a designer, after a step: moments and all."""
    run = new_run()
    for p in run.state.learner.parameters():
        p.grad = torch.ones_like(p)
    run.state.optimizer.step()
    return run


@pytest.fixture
def saved(run, tmp_path):
    path = tmp_path / "checkpoints/baseline.pt"
    save_checkpoint(run.state, path, {"identity": {}, "log": {"bytes": 0, "sha256": ""}})
    return path


def test_no_flipped_bit_of_a_checkpoint_is_accepted(saved, run):
    data = saved.read_bytes()
    assert load_checkpoint(run.state, saved)["log"]["bytes"] == 0
    for bit in some_bits(data, 60):
        saved.write_bytes(flipped(data, bit))
        with pytest.raises(UserError, match="does not fit this run"):
            load_checkpoint(run.state, saved)
    for end in (0, 1, 100, LENGTH, len(data) // 2, len(data) - LENGTH, len(data) - 1):
        saved.write_bytes(data[:end])
        with pytest.raises(UserError, match="does not fit this run"):
            load_checkpoint(run.state, saved)


def nan_weights(content):
    next(iter(content["learner"].values())).view(-1)[3] = float("nan")


def another_moment(content):
    content["optimizer"]["state"][0]["exp_avg"] = torch.zeros(3)


def infinite_moment(content):
    content["optimizer"]["state"][1]["exp_avg_sq"].view(-1)[0] = float("inf")


def another_shape(content):
    name = next(iter(content["learner"]))
    content["learner"][name] = content["learner"][name][:-1]


def counter(name, value):
    return lambda content: content["counters"].update({name: value})


UNSOUND = {
    "NaN weights": (nan_weights, "of the learner is not finite"),
    "step": (counter("step", -5), "counter step is -5"),
    "units": (counter("units", 1.5), "counter units is 1.5"),
    "seconds": (counter("seconds", float("nan")), "counter seconds is nan"),
    "followed": (counter("followed", (0, 0)), "counter followed"),
    "probed": (counter("probed", 1), "counter probed"),
    "no counter": (lambda c: c["counters"].pop("step"), "its counters are"),
    "moment's shape": (another_moment, "exp_avg of the optimizer has another shape"),
    "moment": (infinite_moment, "exp_avg_sq of the optimizer is not finite"),
    "shape": (another_shape, "of the learner has another shape"),
    "no designer": (lambda c: c.update(designer=None), "it has no designer"),
    "designer": (lambda c: next(iter(c["designer"].values())).fill_(float("inf")), "the designer"),
    "lr": (lambda c: c["optimizer"]["param_groups"][0].update(lr=float("nan")), "lr of the"),
    "random": (lambda c: c.update(random=torch.zeros(3)), "its random state"),
    "nothing": (lambda c: c.clear(), "does not fit"),
}


@pytest.mark.parametrize(("change", "said"), UNSOUND.values(), ids=UNSOUND)
def test_a_whole_file_with_unsound_content_is_refused(saved, run, change, said):
    before = {k: x.clone() for k, x in run.state.learner.state_dict().items()}
    content = torch.load(saved, weights_only=True)
    change(content)
    write_sealed(saved, lambda file: torch.save(content, file))
    with pytest.raises(UserError, match=said) as refused:
        load_checkpoint(run.state, saved)
    assert "\n" not in str(refused.value)
    after = run.state.learner.state_dict()
    assert all(torch.equal(x, after[k]) for k, x in before.items())  # nothing was taken


def test_the_newest_checkpoint_gives_way_to_the_one_before(saved, run):
    first = saved.read_bytes()
    save_checkpoint(run.state, saved)
    assert previous(saved).read_bytes() == first
    saved.write_bytes(flipped(saved.read_bytes(), 12345))
    kept, warning = load_newest(run.state, saved)
    assert kept["log"] == {"bytes": 0, "sha256": ""}
    assert "going on from the one before" in warning and "\n" not in warning
    assert saved.read_bytes() == first and not previous(saved).exists()
    # between two renames there is no newest one
    os.replace(saved, previous(saved))
    assert load_newest(run.state, saved)[1] == "" and saved.exists()
    saved.unlink()
    assert load_newest(run.state, saved) == (None, "")


def test_a_checkpoint_without_a_seal_is_taken_only_from_before_there_were_seals(saved, run):
    saved.write_bytes(saved.read_bytes()[:-LENGTH])
    assert seal_holds(saved) is None
    with pytest.raises(UserError, match="digest"):
        load_checkpoint(run.state, saved)
    load_checkpoint(run.state, saved, unsealed=True)


def test_a_file_is_on_the_disk_before_its_name_and_the_name_after(tmp_path, monkeypatch):
    order = []
    sync, replace = os.fsync, os.replace

    def synced(handle):
        order.append("folder" if os.path.isdir(f"/proc/self/fd/{handle}") else "file")
        return sync(handle)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *a: (order.append("rename"), replace(*a)))
    write_atomically(tmp_path / "x", lambda t: open(t, "w").close())
    assert order == ["file", "rename", "folder"]


def test_no_flipped_bit_of_a_designer_is_accepted(run, tmp_path):
    from vfunc.designer_file import save_designer

    path = tmp_path / "designer.safetensors"
    save_designer(run.state.designer, path)
    data = path.read_bytes()
    load_designer(path)
    for bit in some_bits(data, 60):
        path.write_bytes(flipped(data, bit))
        try:
            found = load_designer(path)
        except UserError as error:
            assert "\n" not in str(error)
            continue
        # spaces that fill the head up
        for name, x in run.state.designer.state_dict().items():
            assert torch.equal(x, found.state_dict()[name])
        assert found.config == run.state.designer.config


@pytest.fixture
def kept(tmp_path):
    """A run's folder with a manifest."""
    directory = RunDirectory(tmp_path / "runs/x")
    learner = directory.learner("baseline")
    shutil.copytree(EMBEDDED_LEARNER, learner)
    result = directory.result("baseline")
    result.parent.mkdir()
    result.write_text(json.dumps({"arm": "baseline", "metrics": {"loss": 0.134}}))
    directory.metrics.write_text('{"config": {"seed": 0}}')
    directory.keep(Manifest(directory.digests(learner, result, directory.metrics)))
    return directory


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_learner_of_a_run_is_read_as_it_was_written(kept, file):
    path = kept.learner("baseline") / file
    load_learner(str(kept.learner("baseline")))
    path.write_bytes(flipped(path.read_bytes(), 8 * path.stat().st_size - 50))
    with pytest.raises(UserError, match=f"{file} is not as the run wrote it"):
        load_learner(str(kept.learner("baseline")))
    path.unlink()
    with pytest.raises(UserError, match=f"{file} cannot be read|no config.json"):
        load_learner(str(kept.learner("baseline")))


def test_a_result_is_read_as_it_was_written(kept):
    path = kept.result("baseline")
    assert kept.finished("baseline")["metrics"]["loss"] == 0.134
    data = path.read_bytes()
    for bit in range(0, 8 * len(data), 7):
        path.write_bytes(flipped(data, bit))
        with pytest.raises(UserError, match="not as the run wrote it"):
            kept.finished("baseline")
    kept.metrics.write_text('{"config": {"seed": 1}}')
    with pytest.raises(UserError, match=r"metrics.json is not as the run wrote it"):
        read_run(kept.path)


def test_a_result_that_was_not_wholly_written_is_none(kept):
    other = kept.result("vpretraining")
    other.write_text("{}")
    assert kept.finished("vpretraining") is None  # the process died before it was recorded
    (kept.path / "manifest.json").unlink()
    assert kept.finished("vpretraining") == {}  # a run of before there were manifests
    other.write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        kept.finished("vpretraining")


def test_a_manifest_guards_itself(kept):
    path = kept.path / "manifest.json"
    data = path.read_bytes()
    content = read_manifest(kept.path)
    for bit in random.Random(0).sample(range(8 * len(data)), 100):
        path.write_bytes(flipped(data, bit))
        try:
            assert read_manifest(kept.path) == content  # a space between two entries
        except UserError as error:
            assert "manifest.json is damaged" in str(error)


def test_others_manifests_are_none_of_ours(tmp_path):
    for text in ('{"name": "an app"}', "[]", "{", "\xff"):
        (tmp_path / "manifest.json").write_bytes(text.encode("latin-1"))
        (tmp_path / "model").mkdir(exist_ok=True)
        require_as_written(tmp_path / "model")


def test_what_grows_keeps_its_beginning(tmp_path):
    path = tmp_path / "events.jsonl"
    assert begins_as(path, so_far(path)) and begins_as(path, None)
    path.write_text("one\n")
    then = so_far(path)
    path.write_text("one\ntwo\n")
    assert begins_as(path, then)
    for text in ("", "one", "onE\ntwo\n"):
        path.write_text(text)
        assert not begins_as(path, then)


def test_digests_tell_tensors_and_folders_apart(tmp_path):
    x = torch.arange(6.0)
    found = {digest_of_tensors({name: y}) for name, y in (
        ("a", x), ("b", x), ("a", x.view(2, 3)), ("a", x.double()), ("a", x.bfloat16()), ("a", -x),
    )}  # fmt: skip
    assert len(found) == 6
    assert digest_of_tensors({"a": x, "b": -x}) == digest_of_tensors({"b": -x, "a": x})
    assert digest_of_tensors(nn.Linear(2, 2).state_dict() | {"n": torch.tensor(3)})
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/x.txt").write_text("x")
    (tmp_path / "a/loop").symlink_to(tmp_path / "a")
    (tmp_path / "a/.hidden").write_text("h")
    assert list(digests_below(tmp_path / "a")) == ["b/x.txt"]
    large = tmp_path / "a/b/x.txt"
    large.write_bytes(b"s" + bytes(3 * digests.EDGE) + b"e")
    before = digests_below(tmp_path, large=0)
    large.write_bytes(b"s" + bytes(3 * digests.EDGE) + b"E")
    assert digests_below(tmp_path, large=0) != before
