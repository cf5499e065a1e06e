"""`--dry-run` on pictures: what it says of a learner, the memory it estimates, its one step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from PIL import Image
from small_run import words
from small_vision_run import defaults, tiny_learner
from torch.func import functional_call

from vfunc.forward_pass import autocast
from vfunc.training.build import vision_dry_run
from vfunc.training.build.configuration import resolve
from vfunc.training.build.vision_memory import estimated, kept_bytes
from vfunc.training.run import run
from vfunc.training.run_command_line import run_guarded
from vfunc.vision.encoder.named_encoder import make_encoder
from vfunc.vision.evaluation import dense_evaluation
from vfunc.vision.feedback import fitted_feedback
from vfunc.vision.objectives.dino import Dino
from vfunc.vision.objectives.ijepa import IJepa
from vfunc.vision.objectives.objective import Objective

CPU = torch.device("cpu")
OBJECTIVES: dict[str, Objective] = {
    "dino": Dino(image_size=32, local_size=16, local_crops=1, output_dim=8),
    "ijepa": IJepa(patch=8, image_size=32),
}
VISION = {"modality": "vision"}
OPTIMIZERS = {
    "adamw": {"optimizer": "adamw"},
    "sgd": {"optimizer": "sgd", "momentum": 0.9, "lr": 0.1},
    "plain sgd": {"optimizer": "sgd", "momentum": 0.0, "lr": 0.1},
}
PUBLIC = {"feedback": "ade20k:nowhere nyuv2:nowhere", "stream": "imagenet:nowhere"}


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Exit code and lines of a dry run of a tiny learner, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(**options):
        given = defaults(options) | {"dry_run": True} | options
        if "feedback" in options:
            del given["stream_size"], given["problem"]
        several = [words({k: v}) for k, v in given.items()]
        argv = [part for one in several for word in one for part in word.split()]
        code = run_guarded(run, argv)
        assert not list(tmp_path.iterdir())
        said = capsys.readouterr()
        return code, (said.out + said.err).splitlines()

    return call


def line(lines, name):
    (found,) = [x for x in lines if x.startswith(f"{name:9} ")]
    return found[10:]


def learner_and_batch(name, pictures=1):
    objective = OBJECTIVES[name]
    learner = objective.learner(make_encoder(tiny_learner()), 0)
    noise = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8, generator=noise)
    return learner, objective.batch([image] * pictures, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("dtype", [None, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_what_a_forward_keeps_is_counted_without_running_it(name, dtype):
    learner, batch = learner_and_batch(name)
    storages, alive = {}, []

    def note(x):
        if x.grad_fn is not None:
            alive.append(x)
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x), autocast(CPU, dtype):
        for call in OBJECTIVES[name].calls(batch, batch.views).values():
            learner(*call)
    weights = {p.data_ptr() for p in learner.parameters()}
    real = sum(size for at, size in storages.items() if at not in weights)
    assert kept_bytes(learner, OBJECTIVES[name], batch, dtype) == real
    assert (
        kept_bytes(learner.to("meta"), OBJECTIVES[name], batch.to(torch.device("meta")), dtype)
        == real
    )


def test_counting_leaves_the_learner_as_it_is():
    learner, batch = learner_and_batch("dino")
    before = {n: x.clone() for n, x in learner.state_dict().items()}
    kept_bytes(learner, OBJECTIVES["dino"], batch, None)
    assert all(torch.equal(before[n], x) for n, x in learner.state_dict().items())
    assert {p.grad for p in learner.parameters()} == {None}
    functional_call(learner, {}, ("logits", batch.views.flatten(0, 1)))  # no fake tensor is left


@pytest.mark.parametrize(
    ("options", "copies"),
    [("adamw", 3), ("sgd", 2), ("plain sgd", 1)],
)
def test_a_step_needs_weights_gradients_moments_and_activations_of_each_picture(options, copies):
    kept = resolve(VISION | OPTIMIZERS[options]).optimizer
    learner, _ = learner_and_batch("dino")

    def batch(pictures):
        return learner_and_batch("dino", pictures)[1]

    found = estimated(learner, OBJECTIVES["dino"], batch, kept, pictures=3, dtype=torch.bfloat16)
    parameters = list(learner.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    assert found.weights == 4 * sum(p.numel() for p in parameters)
    assert found.optimizer == 4 * copies * trained
    # copies of weights in bfloat16 are made once, whatever the number of pictures
    assert found.activations == kept_bytes(learner, OBJECTIVES["dino"], batch(3), torch.bfloat16)
    assert found.total == found.weights + found.optimizer + found.activations


def test_it_says_what_it_builds_and_takes_one_step_without_evaluating(dry_run, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("evaluated")

    fitted = []
    fit = fitted_feedback.fit_heads
    monkeypatch.setattr(dense_evaluation, "held_features", refuse)
    monkeypatch.setattr(
        fitted_feedback, "fit_heads", lambda m, batch, *rest: fitted.append(len(batch.images)) or fit(
            m, batch, *rest
        )
    )  # fmt: skip
    code, lines = dry_run(heads_size=30, head_size=30, batch_size=6, meta_batch_size=5)
    assert code == 0 and fitted == [8]
    encoder = make_encoder(tiny_learner())
    each = sum(p.numel() for p in encoder.parameters())
    whole = OBJECTIVES["dino"].learner(encoder, 0)
    student = sum(p.numel() for p in whole.parameters() if p.requires_grad)
    assert f"encoder {each:,} parameters; {student:,} trained in all" in line(lines, "learner")
    assert line(lines, "views") == "2 x 6 x 3 x 32 x 32"
    assert line(lines, "locals") == "1 x 6 x 3 x 16 x 16"
    assert line(lines, "targets") == "2 x 6 x 8"
    assert line(lines, "views out") == "12 x 8"
    assert line(lines, "local out") == "6 x 8"
    assert "64 x 64 segmentation of" in line(lines, "labelled")
    assert line(lines, "step").startswith("one of one picture: loss ")
    assert math.isfinite(float(line(lines, "step").split("value ")[1].split(",")[0]))
    assert 'modality = "vision"' in lines


def test_what_does_not_fit_is_not_tried(dry_run, monkeypatch):
    monkeypatch.setattr(vision_dry_run, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(vision_dry_run, "_tiny_step", None)
    code, lines = dry_run()
    assert code == 0
    assert line(lines, "step").startswith("not taken: even one picture needs about ")
    assert line(lines, "views") == "2 x 3 x 3 x 32 x 32"


@pytest.mark.parametrize("objective", ["dino", "ijepa"])
def test_noise_takes_the_place_of_public_sets_that_are_not_there(dry_run, objective):
    code, lines = dry_run(**PUBLIC, label_size="45 64", objective=objective, precision="bfloat16")
    assert code == 0
    assert line(lines, "pictures").startswith("noise in their place: imagenet:nowhere: ")
    assert line(lines, "labelled") == "40 x 64 segmentation of 150 classes, 40 x 64 depth"
    assert line(lines, "step").startswith("one of one picture: loss ")


def test_an_arm_without_a_designer_steps_too(dry_run):
    idle = (
        "meta_batch_size", "head_size", "heads_size", "feedback_size", "feedback_batch_size",
        "meta_period", "designer_width", "designer_layers", "designer_lr", "certify",
        "probe_batches",
    )  # fmt: skip
    code, lines = dry_run(arms="baseline", **dict.fromkeys(idle))
    assert code == 0, lines
    assert "value" not in line(lines, "step")


@pytest.mark.parametrize("with_public", [False, True])
def test_a_folder_of_ones_own_has_to_be_there(dry_run, with_public):
    feedback = "ade20k:nowhere ./mine" if with_public else "./mine"
    code, lines = dry_run(feedback=feedback)
    assert code == 2
    assert len(lines) == 1 and lines[0].startswith("error: ")


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two folders: one with classes, 9 for none of them, and one with depth."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for name, kind in (("streets", "labels"), ("rooms", "depth")):
        for part in ("images", kind):
            (root / name / part).mkdir(parents=True)
        for i in range(20):
            pixels = draw.integers(0, 256, (40, 40, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / name / "images" / f"{i}.png")
            truth = draw.choice([0, 1, 2, 9], (40, 40)).astype(np.uint8)
            truth = truth if kind == "labels" else 1000 + truth.astype(np.uint16)
            Image.fromarray(truth).save(root / name / kind / f"{i}.png")
    return str(root / "streets"), str(root / "rooms")


@pytest.mark.parametrize("labels", [None, "depth segmentation"])
@pytest.mark.parametrize("order", [1, -1])
def test_folders_with_different_labels_are_asked_what_each_holds(dry_run, folders, order, labels):
    feedback = " ".join(folders[::order])
    code, lines = dry_run(feedback=feedback, void_label=9, labels=labels)
    assert code == 0, lines
    said = ["32 x 32 segmentation of 3 classes", "32 x 32 depth"]
    assert line(lines, "labelled") == ", ".join(said[::order])
    assert line(lines, "step").startswith("one of one picture: loss ")


def test_a_folder_that_nothing_is_asked_of_is_refused(dry_run, folders):
    code, lines = dry_run(feedback=" ".join(folders), labels="segmentation")
    assert code == 2
    assert lines == [
        f"error: --labels segmentation: {folders[1]} holds depth alone; leave it out of --feedback"
    ]


@pytest.mark.parametrize("twice", [1, 2])
def test_void_needs_a_label_map(dry_run, folders, twice):
    code, lines = dry_run(feedback=" ".join([folders[1]] * twice), void_label=9)
    assert code == 2
    assert lines == ["error: --void-label 9: there are no label maps of classes to read"]
