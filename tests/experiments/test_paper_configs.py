"""The paper's vision runs: every configuration builds at full size, and steps when shrunk."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import timm
import torch

import vfunc
from vfunc.training.build import vision_dry_run
from vfunc.training.run import run
from vfunc.training.run_command_line import run_guarded
from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.encoder_file import save_encoder
from vfunc.vision.encoder.timm_vit import build_encoder

CONFIGS = Path(vfunc.__file__).parents[1] / "experiments" / "configs" / "paper"
COLUMNS = (
    "lr", "batch_size", "meta_period", "meta_batch_size", "align", "augmentor", "designer_lr",
    "keep", "sparsity_penalty", "tv_penalty", "segmentation_weight", "depth_weight",
)  # fmt: skip
VIT_L = (4.50e-5, 50, 4, 16, "last:4", "unet", 2.17e-4, 0.5, 0.196, 0.0399, 4, 1)
TABLE_11 = {
    "ade20k_vit_b": (4.15e-6, 256, 4, 32, "last:2", "unet", 1.54e-4, 0.6, 0.131, 0.144, 1, 8),
    "ade20k_vit_l": VIT_L,
    "nyuv2_vit_b": (8.58e-6, 256, 8, 64, "last:3", "dit", 2.21e-4, 0.4, 0.111, 0.0417, 16, 2),
    "nyuv2_vit_l": (1.94e-6, 50, 2, 32, "last:4", "unet", 8.03e-4, 0.4, 0.401, 0.159, 32, 16),
    "ijepa_vit_h": VIT_L,
}
DINO = {
    "local_size": 96, "local_crops": 6, "output_dim": 8192, "student_temperature": 0.1,
    "teacher_temperature": 0.04, "centre_momentum": 0.9,
}  # fmt: skip
SHARED = {
    "modality": "vision", "precision": "bfloat16", "budget": "20000steps", "optimizer": "adamw",
    "weight_decay": 0.04, "clip": 1.0, "warmup": 0.05, "image_size": 224,
    "teacher_momentum": 0.996, "probe_steps": 20000,
    "stream": ["imagenet:data/imagenet"],
    "feedback": ["ade20k:data/ADEChallengeData2016", "nyuv2:data/nyuv2"],
}  # fmt: skip
LABELLED = {
    14: "504 x 504 segmentation of 150 classes, 476 x 630 depth",
    16: "512 x 512 segmentation of 150 classes, 480 x 640 depth",
}


@pytest.fixture
def dry_run(tmp_path, monkeypatch, capsys):
    """Dry runs in an empty folder: what is said before the configuration, and the configuration."""
    monkeypatch.chdir(tmp_path)

    def call(name, *argv):
        assert (
            run_guarded(run, ["--config", str(CONFIGS / f"{name}.toml"), "--dry-run", *argv]) == 0
        )
        told, config = capsys.readouterr().out.split("# run\n")
        said = {row[:9].strip(): row[10:] for row in told.splitlines()}
        return said, tomllib.loads(config)

    return call


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    shape = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 4, "num_heads": 2}
    directory = tmp_path_factory.mktemp("tiny")
    save_encoder(build_encoder(Architecture("vit_tiny_patch16_224", shape), seed=0), directory)
    return str(directory)


def size_of(module):
    return sum(p.numel() for p in module.parameters())


def test_there_is_a_configuration_for_each_row_and_no_other():
    of_pictures = {p.stem for p in CONFIGS.glob("*.toml") if 'modality = "vision"' in p.read_text()}
    assert of_pictures == set(TABLE_11)


@pytest.mark.parametrize("name", TABLE_11)
def test_it_is_built_at_full_size_with_the_papers_values(dry_run, monkeypatch, name):
    monkeypatch.setattr(vision_dry_run, "free_bytes", lambda device: 0)
    said, config = dry_run(name)
    row = dict(zip(COLUMNS, TABLE_11[name], strict=True)) | SHARED
    row |= DINO if name != "ijepa_vit_h" else {}
    assert {key: config[key] for key in row} == row
    assert config["objective"] == ("ijepa" if name == "ijepa_vit_h" else "dino")

    pooled = {} if name == "ijepa_vit_h" else {"global_pool": "token"}
    with torch.device("meta"):
        vit = timm.create_model(config["learner"], num_classes=0, **pooled)
    encoder, batch, width = size_of(vit), config["batch_size"], vit.embed_dim
    assert f": encoder {encoder:,} parameters; " in said["learner"]
    trained = int(said["learner"].split("; ")[1].split()[0].replace(",", ""))
    patch = vit.patch_embed.patch_size[0]
    if name == "ijepa_vit_h":
        assert (patch, vit.embed_dim, len(vit.blocks)) == (14, 1280, 32)
        assert f"{encoder:,} of the teacher" in said["learner"]  # the predictor is the student's
        assert trained > encoder
        assert said["views"] == "1 x 50 x 3 x 224 x 224"
        assert said["targets"] == said["views out"]
    else:
        shape = {"b": (16, 768, 12), "l": (16, 1024, 24)}[name[-1]]
        assert (patch, width, len(vit.blocks)) == shape
        # three layers to 256, as in DINO's code, and directions of the outputs
        head = 2048 * (width + 1) + 2048 * 2049 + 256 * 2049 + 256 * 8192
        assert trained == encoder + head
        assert f"{encoder + head:,} of the teacher" in said["learner"]
        assert said["views"] == f"2 x {batch} x 3 x 224 x 224"
        assert said["locals"] == f"6 x {batch} x 3 x 96 x 96"
        assert said["targets"] == f"2 x {batch} x 8192"
        assert said["views out"] == f"{2 * batch} x 8192"
        assert said["local out"] == f"{6 * batch} x 8192"
    assert said["labelled"] == LABELLED[patch]
    weights = 4 * (2 * trained if name != "ijepa_vit_h" else trained + encoder) / 2**30
    moments = 4 * 3 * trained / 2**30
    assert f": weights {weights:.1f}, gradients and optimizer {moments:.1f}, " in said["memory"]
    assert said["memory"].endswith(f" for {batch} pictures in bfloat16")
    assert said["step"].startswith("not taken: even one picture needs about ")


@pytest.mark.parametrize("name", TABLE_11)
def test_it_steps_when_the_learner_is_small(dry_run, tiny, name):
    small = ["--learner", tiny, "--image-size", "32", "--label-size", "32", "40"]
    if name != "ijepa_vit_h":
        small += ["--local-size", "16", "--output-dim", "16"]
    said, _ = dry_run(name, *small)
    assert said["step"].startswith("one of one picture: loss ")
    assert "value " in said["step"]
