"""`--modality vision`: what its options default to, what is refused, and that language has none."""

from __future__ import annotations

import inspect
import io
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from vfunc.arms import ARMS
from vfunc.config.toml import read_toml
from vfunc.errors import UserError
from vfunc.modality import Modality
from vfunc.report.events import EventLog
from vfunc.report.progress import progress
from vfunc.training import run
from vfunc.training.assemble import assemble, step_options
from vfunc.training.budget import Budget
from vfunc.training.build import language_assembly
from vfunc.training.build.configuration import (
    COMMAND,
    catalogue_of,
    default_name,
    given_options,
    resolve,
    to_toml,
)
from vfunc.training.log import RunLog
from vfunc.training.run_command_line import given_on_command_line, parse
from vfunc.vision.conditions import VISION_ARMS
from vfunc.vision.scenes.scene_look import TEXTURE

VISION = {"modality": "vision"}
TIMM = {"learner": "vit_base_patch16_dinov3"}
OWN = {"feedback": "pictures/street"}
EMBEDDED = {
    "objective": "dino", "image_size": 64, "local_size": 32, "local_crops": 0, "output_dim": 64,
    "student_temperature": 0.1, "teacher_temperature": 0.04, "teacher_momentum": 0.95,
    "centre_momentum": 0.9, "pretrained": True, "augmentor": "unet",
    "keep": 0.6, "sparsity_penalty": 0.0, "tv_penalty": 0.0, "strength_penalty": 0.1, "blur": 0.1,
    "labels": ("segmentation", "depth"), "segmentation_weight": 1.0, "depth_weight": 1.0,
    "classification_weight": 1.0, "head_size": 512, "head_steps": 50, "head_lr": 1.0,
    "feature_layers": 1, "void_label": None, "depth_scale": 0.001, "fit_size": 512,
    "heads_size": 512, "label_size": None, "retrieval": None, "colour": 0.4,
    "probe_steps": 200, "bad_files": None, "signature_amplitude": 0.3,
    "signature_period": (3.0, 4.5), "signature_roles": ("stream",), "object_texture": TEXTURE,
    "stream_side": None, "loader_workers": 0, "in_memory": 2.0, "oracle_blur": 0.3,
}  # fmt: skip
EMBEDDED_SHARED = {
    "learner": "embedded", "batch_size": 32, "meta_batch_size": 16, "feedback_batch_size": 64, "lr": 1e-3,
    "weight_decay": 0.04, "betas": (0.9, 0.99), "warmup": 0.05, "clip": 1.0,
    "budget": Budget(120, "steps"), "meta_period": 2, "designer_lr": 2e-2, "designer_width": 8,
    "designer_layers": 3, "designer_heads": 4, "align": "all", "eval_size": 256,
    "feedback_size": 512, "stream_size": 4096, "eval_split": "test", "stream": None,
    "feedback": None, "eval": None, "probe_batches": 16, "certify": True, "optimizer": "adamw",
    "normalise_feedback": False, "arms": ("baseline", "vpretraining"), "estimator": "first_order",
    "problem": "shortcut", "feedback_bank": 512, "feedback_every": 10, "designer_warmup": 60,
    "designer_final_lr": None,
}  # fmt: skip
BEFORE = {
    "local_crops": 6, "sparsity_penalty": 0.01, "tv_penalty": 0.003, "blur": 0.05, "head_size": 128,
    "meta_batch_size": 8, "lr": 5e-4, "meta_period": 4, "designer_lr": 3e-3, "align": "last:2",
    "problem": "repetitive", "feedback_bank": None, "feedback_every": None, "designer_warmup": None,
}  # fmt: skip
PAPER = EMBEDDED | {
    "image_size": 224, "local_size": 96, "output_dim": 8192, "teacher_momentum": 0.996,
    "sparsity_penalty": 0.131, "tv_penalty": 0.144, "labels": None,
    "local_crops": 6, "blur": 0.05, "head_size": 64, "heads_size": 2000, "fit_size": 2000, "probe_steps": 20_000, "colour": 1.0,
    "bad_files": "refuse", "loader_workers": 4,
}  # fmt: skip
PAPER_SHARED = EMBEDDED_SHARED | TIMM | {
    "batch_size": 256, "meta_batch_size": 64, "feedback_batch_size": 32, "lr": 4.15e-6,
    "betas": (0.9, 0.999), "budget": Budget(300, "steps"),
    "designer_lr": 1.54e-4, "designer_width": 32, "eval_size": 2000, "stream_size": None,
    "feedback": ("pictures/street",), "meta_period": 4, "align": "last:2", "problem": None,
    "feedback_bank": None, "feedback_every": None, "designer_warmup": None,
}  # fmt: skip


def vision(**options):
    return resolve(VISION | options)


def _only(modality, other):
    theirs = catalogue_of(other)
    return tuple(name for name in catalogue_of(modality) if name not in theirs)


VISION_ONLY, LANGUAGE_ONLY = _only("vision", "language"), _only("language", "vision")


def test_every_vision_option_is_in_the_tables_below():
    assert set(EMBEDDED) == set(VISION_ONLY)


@pytest.mark.parametrize("name", [*EMBEDDED, *EMBEDDED_SHARED])
def test_the_embedded_defaults(name):
    assert vision().options[name] == (EMBEDDED | EMBEDDED_SHARED)[name]


@pytest.mark.parametrize("name", BEFORE)
def test_the_earlier_problem_keeps_its_defaults(name):
    assert vision(problem="repetitive").options[name] == BEFORE[name]


@pytest.mark.parametrize("name", [*PAPER, *PAPER_SHARED])
def test_the_papers_defaults(name):
    assert vision(**TIMM, **OWN).options[name] == (PAPER | PAPER_SHARED)[name]


def test_what_is_the_learners_follows_the_learner_and_what_is_the_datas_the_data():
    small = vision(**OWN).options
    assert (small["image_size"], small["batch_size"], small["lr"]) == (64, 32, 5e-4)
    assert (small["probe_steps"], small["designer_width"]) == (200, 8)
    assert (small["labels"], small["eval_size"], small["stream_size"]) == (None, 2000, None)
    large = vision(**TIMM).options
    assert (large["image_size"], large["batch_size"], large["lr"]) == (224, 256, 4.15e-6)
    assert (large["labels"], large["eval_size"]) == (("segmentation", "depth"), 256)


def test_defaults_follow_one_another():
    assert vision(batch_size=12).views.meta_batch_size == 6
    assert vision(batch_size=12, problem="repetitive").views.meta_batch_size == 3
    assert vision(batch_size=3).views.meta_batch_size == 1
    assert vision(batch_size=12).data.feedback_batch_size == 64
    sizes = {
        (kind, learner): (found["width"], found["depth"])
        for kind in ("unet", "dit", "photometric")
        for learner in ("embedded", "vit_x")
        for found in [vision(augmentor=kind, learner=learner).views.design]
    }
    assert sizes == {
        ("unet", "embedded"): (8, 3), ("unet", "vit_x"): (32, 3),
        ("dit", "embedded"): (48, 2), ("dit", "vit_x"): (192, 4),
        ("photometric", "embedded"): (16, 3), ("photometric", "vit_x"): (32, 3),
    }  # fmt: skip


def test_each_modality_has_nothing_of_the_other():
    language = resolve({}).options
    assert language["modality"] == "language"
    assert not set(language) & set(VISION_ONLY) and not set(vision().options) & set(LANGUAGE_ONLY)
    assert not hasattr(resolve({}), "views") and not hasattr(vision(), "targets")


@pytest.mark.parametrize("name", LANGUAGE_ONLY)
def test_options_of_language_are_refused_for_pictures(name):
    defaults = resolve({"stream": "a", "feedback": "b", "eval": "c"}).options | resolve({}).options
    samples = {
        "stream_fields": "text=t", "feedback_fields": "text=t", "eval_fields": "text=t",
        "stream_limit": 5, "edge_dir": "d", "solve_size": 5, "measure_tokens": ("results",),
        "feedback_weights": (1.0,), "gate_penalty_absolute": 0.3, "stream_cap": (5,),
        "data_cache": "no", "stream_domains": ("a",), "feedback_domains": ("a",), "pass_at": (1,),
        "benchmarks": ("gsm8k:f",), "shots": ("2",), "benchmark_size": 5, "answer_tokens": 5,
        "lm_eval": ("t",), "lm_eval_limit": 5, "grpo_tokens": 5, "grpo_lr": 1e-4, "solve_on_the_way": True,
    }  # fmt: skip
    value = samples.get(name, defaults[name])
    flag = "--" + name.replace("_", "-")
    value = value if value else 1.0 if name == "lora_alpha" else value
    with pytest.raises(UserError) as caught:
        vision(**{name: value})
    assert str(caught.value) == f"{flag} does nothing here: it is for --modality language"


@pytest.mark.parametrize("name", VISION_ONLY)
def test_options_of_vision_are_refused_for_text(name):
    known = {"void_label": 11, "label_size": (64, 64), "retrieval": "oxford", "bad_files": "skip"}
    known |= {"stream_side": 256}
    value = known.get(name, EMBEDDED[name])
    flag = "--" + name.replace("_", "-")
    with pytest.raises(UserError) as caught:
        resolve({name: value})
    assert str(caught.value) == f"{flag} does nothing here: it is for --modality vision"


MASKLESS = {"augmentor": "photometric"}
DESIGNER = {"designer": "d.safetensors"}
BASELINE = {"arms": "baseline"}
SEGMENTED = {"labels": ("segmentation",)}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (OWN | {"stream_size": 9}, "--stream-size .*embedded scenes"),
        ({"stream_side": 64}, "--stream-side .*it is for folders; give --feedback DIR"),
        (OWN | {"stream_side": 4}, "--stream-side .*at least 8"),
        ({"loader_workers": -1}, "--loader-workers .*at least 0"),
        ({"in_memory": -0.5}, "--in-memory .*at least 0"),
        *(
            ({"objective": "ijepa", name: value}, f"--{name.replace('_', '-')} .*--objective dino")
            for name, value in {
                "local_size": 32, "local_crops": 0, "output_dim": 256, "student_temperature": 0.1,
                "teacher_temperature": 0.04, "centre_momentum": 0.9,
            }.items()
        ),
        ({"local_crops": 0, "local_size": 32}, "--local-size .*no local crops"),
        ({"pretrained": True}, "--pretrained .*by its name"),
        ({"pretrained": False}, "--pretrained .*by its name"),
        ({"pretrained": False, "learner": "runs/x/learners/baseline"}, "--pretrained .*by its name"),
        (BASELINE | {"meta_batch_size": 4}, "--meta-batch-size .*designer"),
        (BASELINE | {"augmentor": "unet"}, "--augmentor .*designer"),
        (BASELINE | {"keep": 0.5}, "--keep .*designer"),
        (BASELINE | {"sparsity_penalty": 0.1}, "--sparsity-penalty .*designer"),
        (BASELINE | {"tv_penalty": 0.1}, "--tv-penalty .*designer"),
        (BASELINE | {"strength_penalty": 0.1}, "--strength-penalty .*designer"),
        (BASELINE | {"head_size": 4}, "--head-size .*an arm that goes by values"),
        (BASELINE | {"blur": 0.1}, "--blur .*uniform_smoothing"),
        (BASELINE | {"designer_warmup": 3}, "--designer-warmup .*designer"),
        (BASELINE | {"designer_final_lr": 0.1}, "--designer-final-lr .*designer"),
        (OWN | {"problem": "clean"}, "--problem .*embedded scenes"),
        *(
            ({"problem": "clean", name: value}, f"--{name.replace('_', '-')} .*--problem shortcut")
            for name, value in {
                "signature_amplitude": 0.2, "signature_period": (3.0, 4.0),
                "signature_roles": ("stream",),
            }.items()
        ),
        ({"problem": "repetitive", "object_texture": 0.1}, "--object-texture .*shortcut and clean"),
        ({"problem": "messy"}, "--problem must be one of shortcut, clean, repetitive"),
        ({"signature_amplitude": 0}, "--signature-amplitude must be above 0"),
        ({"signature_period": (4.0, 1.0)}, "--signature-period must be at least 2"),
        ({"signature_roles": ("train",)}, "--signature-roles: no pictures are for 'train'; roles: "),
        ({"signature_roles": ("fit", "fit")}, "--signature-roles names fit twice"),
        ({"signature_period": (4.0, 3.0)}, "--signature-period .*the first"),
        (OWN | {"arms": "baseline,known_objects"}, "arm known_objects has to be told where"),
        ({"arms": "matched_uniform,vpretraining"}, "name vpretraining before it in --arms"),
        ({"arms": "baseline,matched_uniform"}, "name vpretraining before it in --arms"),
        (
            MASKLESS | {"arms": "vpretraining,matched_uniform"},
            "arm matched_uniform takes the mean of masks, and --augmentor photometric makes none",
        ),
        (BASELINE | {"estimator": "unrolled"}, "--estimator .*designer"),
        (BASELINE | {"designer_lr": 0.1}, "--designer-lr .*designer"),
        (BASELINE | {"feedback_batch_size": 4}, "--feedback-batch-size .*an arm that goes by values"),
        ({"fixed_alpha": 0.5}, "--fixed-alpha does nothing here: it is for the arm uniform_smooth"),
        (
            {"arms": "oracle", "feedback_every": 1, "meta_period": 3},
            "--meta-period .*a designer, vpretraining or random_feedback, or --feedback-every "
            "above 1 with oracle or tilted_oracle",
        ),
        (BASELINE | {"align": "all"}, "--align .*an arm that goes by values"),
        ({"oracle_blur": 0.5}, "--oracle-blur does nothing here: it is for the arm oracle"),
        (
            {"arms": "baseline,known_objects", "feedback_bank": 100},
            "--feedback-bank does nothing here: it needs an arm that goes by values, vpretraining, "
            "random_feedback, oracle or tilted_oracle",
        ),
        (DESIGNER | {"augmentor": "unet"}, "--augmentor .*saved with"),
        (DESIGNER | {"keep": 0.5}, "--keep .*saved with"),
        (DESIGNER | {"blur": 0.1}, "--blur .*saved with"),
        (DESIGNER | {"designer_width": 16}, "--designer-width .*saved with"),
        (DESIGNER | {"freeze_designer": True, "tv_penalty": 0.1}, "--tv-penalty .*trains no"),
        (DESIGNER | {"freeze_designer": True, "meta_period": 2}, "--meta-period .*trains no"),
        (MASKLESS | {"keep": 0.5}, "--keep .*is for masks"),
        (MASKLESS | {"sparsity_penalty": 0.1}, "--sparsity-penalty .*is for masks"),
        (MASKLESS | {"tv_penalty": 0.1}, "--tv-penalty .*is for masks"),
        ({"keep": 0.5, "sparsity_penalty": 0.0}, "--keep .*--sparsity-penalty above 0"),
        ({"strength_penalty": 0.1}, "--strength-penalty .*photometric"),
        ({"designer_heads": 4}, "--designer-heads .*--augmentor dit"),
        ({"labels": ("depth",), "segmentation_weight": 1.0}, "--segmentation-weight .*--labels"),
        (SEGMENTED | {"depth_weight": 1.0}, "--depth-weight .*--labels"),
        ({"classification_weight": 1.0}, "--classification-weight .*--labels"),
        ({"void_label": 11}, "--void-label .*--feedback DIR"),
        ({"depth_scale": 0.001}, "--depth-scale .*--feedback DIR"),
        ({"label_size": (64, 64)}, "--label-size .*--feedback DIR"),
        ({"objective": "ijepa", "colour": 1.0}, "--colour .*--objective dino"),
        (BASELINE | {"heads_size": 4}, "--heads-size .*an arm that goes by values"),
        ({"feedback": "ade20k:data", "void_label": 0}, "--void-label .*--feedback DIR"),
        ({"feedback": "nyuv2", "depth_scale": 0.1}, "--depth-scale .*--feedback DIR"),
        (OWN | {"labels": ("depth",), "void_label": 0}, "--void-label .*--labels"),
        (OWN | SEGMENTED | {"depth_scale": 0.01}, "--depth-scale .*--labels"),
        ({"labels": ("classification",), "probe_steps": 9}, "--probe-steps .*classification"),
        (SEGMENTED | {"normalise_feedback": True}, "--normalise-feedback .*several --labels"),
        ({"momentum": 0.5}, "--momentum .*--optimizer sgd"),
        (
            {"estimator": "implicit", "solver": "cg", "nystrom_rank": 4},
            "--nystrom-rank .*nystrom",
        ),
        # contradictions
        ({"stream": "a"}, "--stream needs labelled pictures beside it; give --feedback DIR"),
        ({"stream": "a", "eval": "b"}, "--stream and --eval needs labelled"),
        ({"eval": "b"}, "--eval needs labelled"),
        ({"feedback": ("a", "b"), "eval": "c"}, "--eval is for one --feedback"),
        (OWN | {"stream": ("a", "b")}, "--stream a b: --modality vision reads one folder"),
        *(
            ({"arms": f"baseline,{arm}"}, f"--arms: {re.escape(arm)} works on tokens; .*uniform_smoothing")
            for arm in ARMS
            if arm not in VISION_ARMS
        ),
        ({"engine": "linear"}, "--engine linear .*the objective is not linear in a view"),
        ({"budget": "5ktokens"}, "--budget 5000tokens: --modality vision counts images"),
        ({"batch_size": 4, "meta_batch_size": 5}, "--meta-batch-size 5 is above the --batch-size 4"),
        ({"align": "lora"}, "--align lora needs adapters, which --modality vision has not"),
        ({"align": "lora:last:1"}, "--align lora:last:1 needs adapters"),
        ({"designer_width": 18}, "--designer-width 18 must be a multiple of 4"),
        ({"augmentor": "dit", "designer_heads": 5}, "--designer-width 48 .*--designer-heads 5"),
        ({"image_size": 68}, "--image-size 68 must be a multiple of 8"),
        ({"segmentation_weight": 0, "depth_weight": 0}, "--segmentation-weight, --depth-weight: all"),
        ({"optimizer": "sgd"}, "give --lr"),
        # malformed
        ({"labels": ("deep",)}, "--labels: unknown label 'deep'; known: segmentation, depth, class"),
        ({"labels": ("depth", "depth")}, "--labels names depth twice"),
        ({"labels": ()}, "--labels must be one or more names"),
        ({"labels": (1,)}, "--labels must be one or more names"),
        ({"objective": "mae"}, "--objective must be one of dino, ijepa"),
        ({"augmentor": "gan"}, "--augmentor must be one of unet, dit, photometric"),
        ({"modality": "audio"}, "--modality must be one of language, vision"),
        ({"image_size": 0}, "--image-size must be at least 1"),
        ({"local_crops": -1}, "--local-crops must be at least 0"),
        ({"local_crops": 1.5}, "--local-crops must be a whole number"),
        ({"student_temperature": 0}, "--student-temperature must be above 0"),
        ({"teacher_temperature": 0}, "--teacher-temperature must be above 0"),
        ({"teacher_momentum": 1.5}, "--teacher-momentum must be at least 0 and at most 1"),
        ({"centre_momentum": -0.1}, "--centre-momentum must be at least 0 and at most 1"),
        ({"output_dim": 1}, "--output-dim must be at least 2"),
        ({"meta_batch_size": 0}, "--meta-batch-size must be at least 1"),
        ({"designer_layers": 257}, "--designer-layers must be at least 1 and at most 256"),
        ({"designer_layers": 10**9}, "--designer-layers must be at least 1 and at most 256"),
        ({"keep": 0}, "--keep must be above 0 and at most 1"),
        ({"keep": 1.1}, "--keep must be above 0 and at most 1"),
        ({"blur": 0}, "--blur must be above 0"),
        ({"depth_scale": 0} | OWN, "--depth-scale must be above 0"),
        ({"head_lr": 0}, "--head-lr must be above 0"),
        *(
            ({name: 0}, f"--{name.replace('_', '-')} must be at least 1")
            for name in ("local_size", "head_size", "head_steps", "feature_layers", "fit_size",
                         "probe_steps")
        ),
        *(
            ({name: -1.0}, f"--{name.replace('_', '-')} must be at least 0")
            for name in ("sparsity_penalty", "tv_penalty", "strength_penalty",
                         "segmentation_weight", "depth_weight", "classification_weight")
        ),
    ],
)  # fmt: skip
def test_options_that_do_nothing_or_disagree_are_refused(options, said):
    with pytest.raises(UserError, match=said) as caught:
        resolve(VISION | options)
    assert "\n" not in str(caught.value)


def test_images_are_no_unit_of_text():
    with pytest.raises(UserError, match="--modality language counts tokens; give tokens, steps or"):
        resolve({"budget": "5kimages"})
    assert vision(budget="5kimages").run.budget == Budget(5000, "images")
    assert vision(budget="1h").run.budget == Budget(3600, "seconds")


KEPT = [
    {"objective": "ijepa", "teacher_momentum": 0.9, "image_size": 32},
    {"local_crops": 0},
    {
        "augmentor": "dit",
        "designer_heads": 2,
        "designer_width": 24,
        "keep": 1.0,
        "sparsity_penalty": 0.1,
    },
    {"signature_amplitude": 0.2, "signature_period": (3.0, 3.0), "signature_roles": ("test",)},
    {"problem": "clean", "object_texture": 0.5, "designer_warmup": 0, "designer_final_lr": 0.1},
    {"arms": "vpretraining,known_objects,matched_uniform"},
    {"augmentor": "photometric", "strength_penalty": 1.0, "image_size": 68},
    DESIGNER | {"sparsity_penalty": 0.5, "strength_penalty": 0.5},
    DESIGNER | {"freeze_designer": True},
    {"arms": "baseline,uniform_smoothing", "blur": 0.2, "fixed_alpha": 0.25},
    {"arms": "oracle", "blur": 0.2, "oracle_blur": 1.0, "feedback_bank": 100, "feedback_every": 3},
    {"arms": "oracle", "align": "last:1", "meta_period": 3, "normalise_feedback": True},
    DESIGNER
    | {"freeze_designer": True, "arms": "vpretraining,oracle"}
    | {"feedback_bank": 100, "feedback_every": 2, "meta_period": 5},
    {"arms": "baseline,oracle", "head_size": 100, "heads_size": 200, "feedback_batch_size": 7},
    {"labels": ("segmentation", "classification"), "classification_weight": 2.0},
    {"segmentation_weight": 0.0},
    {"normalise_feedback": True, "align": "re:norm"},
    OWN | {"void_label": 11, "depth_scale": 0.01, "eval_split": "validation"},
    OWN | {"stream": "imagenet:data", "eval": "elsewhere", "classification_weight": 0.5},
    {"feedback": "nyuv2:data", "eval": "own", "depth_scale": 0.01},
    TIMM | {"pretrained": False},
    {"learner": "hf-hub:timm/vit_x", "pretrained": False},
    {"estimator": "unrolled", "lookahead_steps": 2, "engine": "forward", "truncate": 1},
    {"estimator": "implicit", "damping": 10.0, "solver": "nystrom", "nystrom_rank": 3},
    {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "accumulate": 2, "burn_in": 3},
]


@pytest.mark.parametrize("options", KEPT, ids=lambda options: "-".join(options))
def test_options_that_do_something_are_kept_and_repeat_the_run(options, tmp_path):
    config = resolve(VISION | options)
    found = config.options
    for name, value in options.items():
        several = {"arms": ",", "stream": "|", "feedback": "|"}.get(name)
        assert found[name] == (tuple(value.split(several)) if several else value), name
    assert resolve(given_options(config)) == config
    path = tmp_path / "config.toml"
    path.write_text(to_toml(config))
    assert resolve(read_toml(path)) == config
    assert tomllib.loads(path.read_text())["modality"] == "vision"


def test_toml_holds_what_does_something():
    written = tomllib.loads(to_toml(vision(sparsity_penalty=0.1)))
    assert written["labels"] == ["segmentation", "depth"] and written["keep"] == 0.6
    assert written["budget"] == "120steps"
    absent = {*LANGUAGE_ONLY, *COMMAND, "pretrained", "void_label", "depth_scale", "fixed_alpha",
              "strength_penalty", "designer_heads", "classification_weight", "stream"}  # fmt: skip
    assert not absent & set(written)
    assert set(tomllib.loads(to_toml(resolve({})))) & set(VISION_ONLY) == set()


def test_a_file_from_before_there_were_modalities_is_language(tmp_path):
    config = resolve({"seed": 3, "problem": "random_slips"})
    path = tmp_path / "config.toml"
    lines = to_toml(config).splitlines()
    path.write_text("\n".join(line for line in lines if not line.startswith("modality")))
    assert len(path.read_text().splitlines()) == len(lines) - 1
    assert resolve(read_toml(path)) == config and config.run.modality == "language"


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('modality = "vision"\nlabels = ["depth"]\nfit_size = 9\nbatch_size = 12\n')
    config = parse(["--config", str(path), "--labels", "segmentation", "depth", "--blur", "0.1"])
    assert config.dense.labels == ("segmentation", "depth")
    assert (config.dense.fit_size, config.views.design["blur"]) == (9, 0.1)
    assert config.views.meta_batch_size == 6
    # what the other modality makes useless gives way to it
    text = parse(["--config", str(path), "--modality", "language"])
    assert text == resolve({"batch_size": 12, "config": str(path)})
    path.write_text("top_k = 8\nseed = 5\n")
    pictures = parse(["--config", str(path), "--modality", "vision"])
    assert pictures == vision(seed=5, config=str(path))
    with pytest.raises(UserError, match=r"mine\.toml: keep does nothing here: .*--modality vision"):
        path.write_text("keep = 0.5\n")
        parse(["--config", str(path)])


def test_the_command_line_spells_them():
    line = (
        "--modality vision --no-pretrained --labels depth segmentation --local-crops 0 "
        "--void-label 11 --depth-scale 0.01 --objective ijepa --augmentor dit --stream a"
    )
    assert given_on_command_line(line.split()) == {
        "modality": "vision", "pretrained": False, "labels": ("depth", "segmentation"),
        "local_crops": 0, "void_label": 11, "depth_scale": 0.01, "objective": "ijepa",
        "augmentor": "dit", "stream": ("a",),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({}, "scenes-dino-first_order-seed0"),
        ({"seed": 2, "objective": "ijepa"}, "scenes-ijepa-first_order-seed2"),
        ({"feedback": "/data/camvid/"}, "camvid-dino-first_order-seed0"),
        ({"feedback": "/data/x", "stream": "y"}, "x-dino-first_order-seed0"),
        ({"feedback": "nyuv2:/data/n"}, "nyuv2-dino-first_order-seed0"),
        ({"feedback": "imagenet"}, "imagenet-dino-first_order-seed0"),
        ({"estimator": "vfunc.estimators:Unrolled"}, "scenes-dino-Unrolled-seed0"),
    ],
)
def test_runs_without_a_name_get_one(options, name):
    assert default_name(vision(**options)) == name


def test_penalties_are_the_designers(monkeypatch):
    absolute = step_options(resolve({"gate_penalty_absolute": 0.5}))
    assert absolute.penalties == {"gate": 0.5, "moved": 0.0}
    in_values = step_options(resolve({"gate_penalty": 0.5, "targets": "bounded"}))
    assert in_values.penalties["gate"] == 0 and in_values.penalties_in_values == {"gate": 0.5}
    masks = step_options(vision(tv_penalty=0.5, augmentor="dit"))
    assert masks.penalties == {"sparsity": 0.0, "tv": 0.5}
    photometric = step_options(vision(augmentor="photometric", strength_penalty=0.5))
    assert photometric.penalties == {"strength": 0.5}
    saved = SimpleNamespace(config=SimpleNamespace(kind="photometric"))
    monkeypatch.setattr(
        "vfunc.vision.designers.view_designer.load_view_designer", lambda path: saved
    )
    assert step_options(vision(**DESIGNER)).penalties == {"strength": 0.1}


MODALITY = object.__new__(Modality)  # only handed on


class Learner(nn.Module):
    """Two blocks, with dropout if asked."""

    def __init__(self, dropout: float):
        super().__init__()
        blocks = [nn.Sequential(nn.Linear(2, 2), nn.Dropout(dropout)) for _ in range(2)]
        self.blocks = nn.ModuleList(blocks)


@pytest.fixture
def parts(monkeypatch):
    """`vision_parts`, replaced; returns what it was called with."""
    asked = []

    def vision_parts(config, device):
        asked.append((config, device, torch.initial_seed()))
        return Learner(0.5 if config.run.seed == 7 else 0.0), MODALITY

    module = SimpleNamespace(vision_parts=vision_parts)
    monkeypatch.setitem(sys.modules, "vfunc.training.build.vision_assembly", module)
    return asked


def test_assemble_asks_the_modality_for_its_parts(parts):
    config = vision(seed=7, estimate_mode="train", device="cpu", align="last:1")
    assembled = assemble(config)
    assert parts == [(config, torch.device("cpu"), 7)]
    assert assembled.config is config and assembled.modality is MODALITY
    assert isinstance(assembled.learner, Learner)


def test_a_learner_that_does_not_suit_is_refused(parts):
    with pytest.raises(UserError, match=r"--estimate-mode train does nothing here: .*no dropout"):
        assemble(vision(estimate_mode="train", device="cpu"))
    with pytest.raises(UserError, match=r"last:3.*2"):
        assemble(vision(align="last:3", device="cpu"))


def test_neither_modality_brings_what_the_other_needs():
    code = (
        "import sys; from vfunc.training import assemble;"
        "sys.exit(any(name in sys.modules for name in ('timm', 'transformers', 'torchvision')))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    for path in (inspect.getsourcefile(language_assembly), inspect.getsourcefile(run)):
        assert "vfunc.vision" not in Path(path).read_text()


def test_progress_counts_images_and_what_masks_keep(tmp_path, monkeypatch):
    shown = []
    with (
        EventLog(tmp_path / "events.jsonl") as events,
        progress("a", stream=io.StringIO()) as display,
    ):
        monkeypatch.setattr(display, "update", lambda fraction, status: shown.append(status))
        log = RunLog(events, display, tmp_path / "c", "images")
        step = {"step": 1, "units_a_second": 5.0, "train_loss": 2.0}
        log.progress(0.5, step | {"kept": 0.75, "value": 0.1})
        log.progress(0.6, step)
    assert len(shown) == 2
    for status in shown:
        assert status.images_per_second == 5.0 and status.tokens_per_second is None
        assert (status.kept, status.value, status.loss) == (0.75, 0.1, 2.0)


ANYWHERE = [arm for arm in VISION_ARMS if arm not in ("known_objects", "matched_uniform")]
"""Arms that ask nothing of the other arms, or of the data."""


@settings(max_examples=60, deadline=None)
@given(
    embedded=st.booleans(),
    own=st.booleans(),
    options=st.fixed_dictionaries(
        {},
        optional={
            "objective": st.sampled_from(["dino", "ijepa"]),
            "augmentor": st.sampled_from(["unet", "dit", "photometric"]),
            "batch_size": st.integers(1, 64),
            "arms": st.lists(st.sampled_from(ANYWHERE), min_size=1, unique=True).map(",".join),
        },
    ),
)
def test_any_company_of_defaults_is_at_peace_and_repeats_itself(embedded, own, options):
    if "vpretraining" not in options.get("arms", "vpretraining"):
        options.pop("augmentor", None)
    company = VISION | ({} if embedded else TIMM) | (OWN if own else {}) | options
    config = resolve(company)
    assert resolve(given_options(config)) == config
