"""Runs on pictures: every estimator steps, a stopped run goes on, and what a run leaves."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math

import pytest
import timm
import torch
from small_run import Memory, same, words
from small_vision_run import (
    both,
    defaults,
    everything,
    new_run,
    parts_of,
    small_vision,
    train,
)

from vfunc.config.layers import Layer
from vfunc.designer_file import save_designer
from vfunc.errors import CertificationError, UserError
from vfunc.report.events import read_events
from vfunc.training.assemble import assemble
from vfunc.training.build.configuration import resolve
from vfunc.training.certifying import EXAMPLES, certified_arm, certify_start
from vfunc.training.checkpoint import load_checkpoint, save_checkpoint
from vfunc.training.loop import run_arm
from vfunc.training.run import run
from vfunc.training.run_command_line import run_guarded
from vfunc.training.start import start_arm
from vfunc.vision.designers.view_designer import ViewDesigner, ViewDesignerConfig
from vfunc.vision.learner import VisionLearner


@both()
def test_every_estimator_steps(options):
    trained = train(budget="1steps", **options)
    (value,), (norm,) = trained.of("value"), trained.of("designer_gradient_norm")
    assert math.isfinite(value) and math.isfinite(norm)
    assert (norm > 0) == (options["estimator"] != "zero")
    (estimate,) = trained.of("estimate")
    assert "blocks are computed once" in estimate["split"]
    assert all(x.isfinite().all() for x in everything(trained).values())
    assert all(x.isfinite().all() for x in trained.phi.values())


@pytest.mark.parametrize("augmentor", ["dit", "photometric"])
def test_other_designers_step(augmentor):
    trained = train(budget="1steps", augmentor=augmentor, probe_batches=1)
    assert trained.of("designer_gradient_norm")[0] > 0
    _, found = [e for e in trained.log.events if e["kind"] == "value_map"]
    assert len(trained.of("predicted", kind="probe")) == 4
    json.dumps(found)


def test_a_tasks_gradient_may_be_normalised():
    plain, normalised = (
        train(budget="1steps", normalise_feedback=n, probe_batches=int(n)) for n in (False, True)
    )
    assert plain.of("value") != normalised.of("value")
    assert all(map(math.isfinite, normalised.of("realised", kind="probe")))


class Stopped(Exception):
    """The process has died."""


class OnDisk(Memory):
    """A log whose checkpoints are files, and that dies after the step it is told."""

    def __init__(self, path, dies_after=None):
        super().__init__()
        self.path, self.dies_after = path, dies_after

    def event(self, kind, fields):
        super().event(kind, fields)
        if (kind, fields.get("step")) == ("step", self.dies_after):
            raise Stopped

    def checkpoint(self, state):
        super().checkpoint(state)
        save_checkpoint(state, self.path)


@both([{"estimator": "first_order"}])
def test_resumed_is_uninterrupted(tmp_path, options):
    options = options | {"budget": "3steps", "accumulate": 2, "meta_period": 3,
                         "save_every": 1 / 3, "eval_every": 1 / 3, "probe_batches": 1}  # fmt: skip
    whole = train(log=OnDisk(tmp_path / "whole.pt"), **options)
    stopped = OnDisk(tmp_path / "x.pt", dies_after=3)  # before it is saved
    with pytest.raises(Stopped):
        train(log=stopped, **options)
    assert stopped.saved == [0, 1, 2]
    again = train(
        log=OnDisk(tmp_path / "x.pt"),
        prepare=lambda state: load_checkpoint(state, tmp_path / "x.pt"),
        **options,
    )
    assert same(everything(whole), everything(again))
    assert same(whole.phi, again.phi)
    assert again.of("train_loss") == whole.of("train_loss")[2:]
    assert again.evaluation == whole.evaluation
    assert not again.of("realised", kind="probe")  # it was made before the checkpoint


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole run, by the command line, once."""
    root = tmp_path_factory.mktemp("vision")
    with contextlib.chdir(root):
        options = {"probe_batches": 1, "eval_every": 0.5, "save_every": 0.5,
                   "arms": "baseline,vpretraining,uniform_smoothing"}  # fmt: skip
        given = {k: v for k, v in defaults(options).items() if k not in options} | options
        assert run_guarded(run, ["--name", "x", *words(given)]) == 0
    return root / "runs" / "x"


ARM_NAMES = ("baseline", "vpretraining", "uniform_smoothing")


def test_metrics_and_tables(finished):
    metrics = json.loads((finished / "metrics.json").read_text())
    assert metrics["unit"] == "images"
    assert [m["name"] for m in metrics["metrics"]] == ["loss", "linear_accuracy", "rmse", "miou"]
    measured = {"loss", "loss_examples", "miou", "pixel_accuracy", "rmse", "abs_rel", "delta_1",
                "linear_accuracy", "knn_accuracy"}  # fmt: skip
    assert set(metrics["start"]) == measured
    assert set(metrics["arms"]) == set(ARM_NAMES)
    for arm in metrics["arms"].values():
        assert set(arm["metrics"]) == measured and arm["images"] == 2 * 3
        assert all(math.isfinite(x) for x in arm["metrics"].values())
    (source,) = metrics["data"]["sources"]
    assert source["source"] == "embedded scenes" and source["pictures"]["stream"] == 16
    assert {"vpretraining", "uniform_smoothing"} == set(metrics["against_baseline"])
    outcomes = json.loads((finished / "arms" / "baseline.json").read_text())["outcomes"]
    assert set(outcomes) == {"loss", "image_iou", "image_rmse", "linear_correct"}
    assert {len(x) for x in outcomes.values()} == {5}
    table = (finished / "table.txt").read_text()
    for title in ("images", "linear", "RMSE", "mIoU", "held-out", *ARM_NAMES):
        assert title in table, title


def test_events_and_plots(finished):
    events = read_events(finished / "events.jsonl")
    kinds = [e["kind"] for e in events]
    assert kinds.count("engine") == 1 and kinds.count("value_map") == 2
    steps = [e for e in events if e["kind"] == "step"]
    assert [e["arm"] for e in steps] == [a for a in ARM_NAMES for _ in range(2)]
    assert ["kept" in e for e in steps] == [False, False, True, True, True, True]
    plots = {p.name for p in (finished / "plots").iterdir()}
    assert {"learning_curves.png", "value_map_vpretraining.png",
            "value_map_vpretraining_at_start.png"} <= plots  # fmt: skip
    assert (finished / "plots/value_map_vpretraining.png").read_bytes()[:4] == b"\x89PNG"
    assert not list((finished / "checkpoints").iterdir())
    page = (finished / "report.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == 2 and "mean share kept μ" in page


def test_learners_load_with_timm_and_with_learner(finished):
    start = parts_of().learner.encoder.vit.state_dict()
    for arm in ARM_NAMES:
        directory = finished / "learners" / arm
        vit = timm.create_model(f"local-dir:{directory}", pretrained=True)
        mine = parts_of(learner=str(directory)).learner
        assert same(vit.state_dict(), mine.encoder.vit.state_dict())
        assert same(vit.state_dict(), mine.teacher_encoder.vit.state_dict())
        assert not same(vit.state_dict(), start)
        images = torch.rand(2, 3, 32, 32)
        encoder = mine.encoder.eval()
        normed = (images - encoder.mean) / encoder.std
        with torch.no_grad():
            ours, theirs = encoder.tokens(images), vit.eval().forward_features(normed)
        torch.testing.assert_close(ours, theirs)


def test_the_student_is_what_is_saved(finished):
    student = train("baseline").state.learner.encoder.vit.state_dict()
    saved = parts_of(learner=str(finished / "learners" / "baseline")).learner
    assert same(student, saved.encoder.vit.state_dict())


def test_the_designer_loads_frozen(finished):
    path = finished / "designers" / "vpretraining.safetensors"
    assert {p.name for p in path.parent.iterdir()} == {path.name}
    state = new_run(designer=str(path), freeze_designer=True).state
    assert state.designer_optimizer is None
    fresh = parts_of().workload.new_designer()
    assert not same(dict(state.designer.named_parameters()), dict(fresh.named_parameters()))
    frozen = train(designer=str(path), freeze_designer=True, budget="1steps")
    assert same(frozen.phi, dict(state.designer.named_parameters()))
    assert not frozen.of("value")


def certified(**options):
    parts = parts_of(certify=True, **options)
    arm = certified_arm(parts)
    assert arm is not None
    return certify_start(arm, parts)


CERTIFIED = [
    ({"objective": "dino"}, 280),
    ({"objective": "ijepa", "accumulate": 2, "value": "cosine"}, 195),
]


@pytest.mark.parametrize(("options", "most"), CERTIFIED, ids=["dino", "ijepa"])
def test_a_run_certifies_its_estimator(monkeypatch, options, most):
    """By forwards of two pictures' crops, and one of the heads' pictures.

    A third of them hold the loss's own gradients and forms against slopes.
    """
    parts = parts_of(certify=True, **options)
    before = {n: x.clone() for n, x in parts.learner.state_dict().items()}
    sizes, kind = [], type(parts.learner)
    real = kind.forward

    def forward(self, *args, **kwargs):  # no hook: certify would see that its list changes
        sizes.append(len(args[1]))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(kind, "forward", forward)
    found = certified(**options)
    assert [row.verdict for row in found.estimators] == ["exact"]
    assert same(before, dict(parts.learner.state_dict()))
    assert 10 < len(sizes) <= most
    assert sum(n == 4 for n in sizes) >= 1 and max(sizes) <= 4
    workload = parts.workload.smaller(EXAMPLES)
    assert len(workload.batch(0)) == len(workload.feedback(0).meta[0]) == EXAMPLES


@pytest.mark.parametrize(("objective", "entry"), [("dino", "targets"), ("ijepa", "views edge")])
def test_a_detached_path_of_phi_stops_the_run(monkeypatch, objective, entry):
    task = VisionLearner.task

    def detached(self, views, observed):
        found = dict(task(self, views, observed))
        return found | {entry: found[entry].detach()}

    monkeypatch.setattr(VisionLearner, "task", detached)
    # what is cut off is looked for parameter by parameter, which takes long
    monkeypatch.setattr("vfunc.certification.designer_gradient._cut", lambda *_: "phi is cut off")
    with pytest.raises(CertificationError, match="phi is cut off"):
        certified(objective=objective)


def test_dropout_masks_cannot_be_repeated():
    parts = parts_of()
    learner = copy.deepcopy(parts.learner)
    config = dataclasses.replace(
        parts.config, estimator=dataclasses.replace(parts.config.estimator, estimate_mode="train")
    )
    parts = dataclasses.replace(parts, learner=learner, config=config)
    run = start_arm("vpretraining", parts)
    with pytest.raises(UserError, match="estimate-mode train"):
        run_arm(run)


def test_an_arm_that_follows_masks_is_refused_where_a_saved_designer_makes_none(tmp_path):
    path = str(tmp_path / "d.safetensors")
    save_designer(ViewDesigner(ViewDesignerConfig("photometric", width=4)), path)
    arms = ("baseline", "vpretraining", "matched_uniform")
    with pytest.raises(UserError, match=r"d\.safetensors \(photometric\) makes none; take it out"):
        assemble(small_vision(designer=path, arms=arms))
    assemble(small_vision(designer=path, arms=arms[:2]))


@pytest.mark.parametrize(
    ("kind", "given", "said"),
    [
        (
            "photometric",
            "sparsity_penalty",
            r"--sparsity-penalty does nothing here: it is for masks",
        ),
        ("photometric", "tv_penalty", r"--tv-penalty does nothing here: it is for masks"),
        ("unet", "strength_penalty", r"--strength-penalty does nothing here: .*photometric$"),
    ],
)
def test_a_penalty_that_a_saved_designer_has_not_is_refused(tmp_path, kind, given, said):
    """By its file; a preset's gives way."""
    path = str(tmp_path / "d.safetensors")
    save_designer(ViewDesigner(ViewDesignerConfig(kind, width=4)), path)
    with pytest.raises(UserError, match=said):
        small_vision(designer=path, **{given: 0.1})
    new = "photometric" if kind == "unet" else "unet"
    own = Layer({"modality": "vision", "augmentor": new, given: 0.1}, "preset")
    assert given.removesuffix("_penalty") not in resolve(own, {"designer": path}).penalties
