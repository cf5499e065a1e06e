"""Runs on files: threads that read ahead, and a limit of memory, change no number."""

from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import same
from small_vision_run import everything, parts_of, small_vision, train

from vfunc.errors import UserError
from vfunc.processes import Processes
from vfunc.training.build.configuration import to_toml
from vfunc.training.files.identity import identity_of
from vfunc.training.run_command_line import parse
from vfunc.vision.workload import VisionWorkload


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root, draws = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for n in range(40):
        size = (36 + n % 5, 48)
        pixels = draws.integers(0, 256, (*size, 3), dtype=np.uint8)
        labels = draws.integers(0, 3, size, dtype=np.uint8)
        (root / "images").mkdir(exist_ok=True)
        (root / "labels").mkdir(exist_ok=True)
        Image.fromarray(pixels).save(root / "images" / f"{n:02}.png")
        Image.fromarray(labels).save(root / "labels" / f"{n:02}.png")
    return str(root)


def trained(folder, **options):
    return train(
        feedback=(folder,), budget="3steps", lookahead_steps=2, estimator="unrolled",
        eval_every=1.0, **options,
    )  # fmt: skip


def test_what_is_read_ahead_or_kept_in_a_file_is_the_same(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("VFUNC_CACHE", str(tmp_path))
    one, *others = (
        trained(folder, loader_workers=0),
        trained(folder, loader_workers=3),
        trained(folder, in_memory=0.0, loader_workers=1),
    )
    for other in others:
        assert same(everything(one), everything(other))
        assert one.of("loss") == other.of("loss")
        assert (
            one.of("heldout_loss", kind="evaluation")
            == other.of("heldout_loss", kind="evaluation")
            != []
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_does_not_depend_on_how_many_threads_the_learner_has(folder, monkeypatch, workers):
    workload, seen, make = parts_of(feedback=(folder,)).workload, [], VisionWorkload._crops

    def crops(self, at):
        seen.append(torch.get_num_threads())
        return make(self, at)

    monkeypatch.setattr(VisionWorkload, "_crops", crops)
    before, names = torch.get_num_threads(), {t.ident for t in threading.enumerate()}
    torch.set_num_threads(2)
    try:
        held = dataclasses.replace(workload, workers=workers)
        held.batch(3)
        assert set(seen) == {1} and seen[workers:]
    finally:
        torch.set_num_threads(before)
    reading = [t for t in threading.enumerate() if t.ident not in names]
    del held  # an arm's threads and batches end with it
    for thread in reading:
        thread.join(10)
    assert reading and not any(thread.is_alive() for thread in reading)


@pytest.mark.parametrize("workers", [0, 2])
def test_processes_share_the_batches_that_one_reads_in_turn(folder, workers):
    alone = parts_of(feedback=(folder,)).workload
    for rank in (0, 1):
        shares = dataclasses.replace(alone, workers=workers).among(Processes(rank, 2))
        for at in (0, 1, 2, 1):
            assert torch.equal(shares.batch(at).views, alone.batch(2 * at + rank).views)


def test_they_belong_to_the_machine_and_not_to_the_run(folder):
    def identity(**options):
        parts = parts_of(feedback=(folder,), **options)
        return identity_of(parts)["options"]

    assert identity(loader_workers=2, in_memory=0.1) == identity()
    assert identity(stream_side=32) != identity()


def test_a_smaller_side_of_the_stream_changes_what_is_learned(folder):
    assert not same(everything(trained(folder)), everything(trained(folder, stream_side=24)))


def test_a_resumed_run_may_have_other_threads_and_memory(folder, tmp_path):
    """Its modality is the run's own, which nobody has to say again."""
    (tmp_path / "x").mkdir()
    saved = small_vision(feedback=(folder,), loader_workers=1)
    (tmp_path / "x/config.toml").write_text(to_toml(saved), encoding="utf-8")
    words = ["--resume", str(tmp_path / "x"), "--loader-workers", "3", "--in-memory", "0.5"]
    found = parse(words)
    assert (found.data.loader_workers, found.data.in_memory) == (3, 0.5)
    assert found.options["feedback"] == (folder,)
    with pytest.raises(UserError, match="--lr would change the run"):
        parse([*words, "--lr", "1"])
