"""A learner is loaded whole and finite, with its tokenizer, without its code; or not at all."""

from __future__ import annotations

import io
import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from vfunc.errors import UserError
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.loading import load_learner

NORM = "model.layers.1.input_layernorm.weight"


@pytest.fixture
def copy(tmp_path):
    """A copy of the embedded learner, and a way to change its weights."""
    folder = tmp_path / "copy"
    shutil.copytree(EMBEDDED_LEARNER, folder)

    def change(edit):
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)

    return change


def configured(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def renamed(tensors):
    tensors["transformer.norm.scale"] = tensors.pop(NORM)


def nan(tensors):
    tensors[NORM][7] = float("nan")


def quantised(tensors):
    tensors[NORM] = (100 * tensors[NORM]).to(torch.int8)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda t: t.pop(NORM), f"lacks weights.*: {NORM}$"),
        (renamed, f"lacks weights.*{NORM}; it holds transformer.norm.scale, renamed"),
        (lambda t: t.pop("model.embed_tokens.weight"), "lacks weights.*embed_tokens"),
        (lambda t: [t.pop(k) for k in list(t) if "layers.2" in k], "layers.2.* and 9 more$"),
        (
            lambda t: t.update({NORM: torch.zeros(3)}),
            rf"another shape: {NORM} \(stored \(3,\), by its config.json \(96,\)\)$",
        ),
        (quantised, rf"quantised.*: {NORM} \(I8\); save it in floating point$"),
        (lambda t: t.update({NORM: t[NORM].to(torch.float8_e4m3fn)}), "quantised.*F8_E4M3"),
        (nan, f"damaged: {NORM} is not finite"),
        (lambda t: t[NORM].fill_(float("-inf")), "not finite"),
    ],
    ids=["missing", "renamed", "tied", "a layer", "shape", "int8", "float8", "nan", "inf"],
)
def test_weights_that_are_not_whole_are_refused_and_named(copy, edit, said, capfd):
    with pytest.raises(UserError, match=said) as refused:
        load_learner(copy(edit))
    assert "\n" not in str(refused.value)
    assert "LOAD REPORT" not in capfd.readouterr().err


def test_a_vision_transformer_of_timm_is_named_as_one(tmp_path):
    config = {"architecture": "vit_tiny_patch16_224", "pretrained_cfg": {}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="is a vision transformer; this takes language models"):
        load_learner(str(tmp_path))


def test_layers_that_the_configuration_drops_are_refused(copy, tmp_path):
    name = copy(lambda t: None)
    configured(tmp_path / "copy", num_hidden_layers=2, layer_types=["full_attention"] * 2)
    with pytest.raises(UserError, match=r"no place for: model.layers.2.* and 9 more; mend"):
        load_learner(name)


def test_a_head_of_another_task_does_no_harm_and_tied_weights_are_not_missing(copy):
    name = copy(lambda t: t.update({"score.weight": torch.zeros(2, 96)}))
    learner, _ = load_learner(name)
    assert learner.get_output_embeddings().weight is learner.get_input_embeddings().weight


@pytest.mark.parametrize("also", [(), ("tokenizer_config.json",)])
def test_a_missing_tokenizer_is_one_line(copy, tmp_path, also):
    name = copy(lambda t: None)
    for file in ("tokenizer.json", *also):
        (tmp_path / "copy" / file).unlink()
    with pytest.raises(UserError, match="has no tokenizer") as refused:
        load_learner(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("file", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_damaged_file_beside_the_weights_is_one_line(copy, tmp_path, file):
    name = copy(lambda t: None)
    (tmp_path / "copy" / file).write_text("{")
    with pytest.raises(UserError, match=r"cannot be loaded|has no tokenizer") as refused:
        load_learner(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("part", ["AutoModelForCausalLM", "AutoTokenizer"])
def test_a_learners_own_code_is_never_run_whatever_standard_input_says(
    copy, tmp_path, monkeypatch, part
):
    name, folder = copy(lambda t: None), tmp_path / "copy"
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 9))
    if part == "AutoTokenizer":
        file, value = "tokenizer_config.json", ["own.Own", None]
        told = json.loads((folder / file).read_text()) | {"tokenizer_class": "Own"}
        (folder / file).write_text(json.dumps(told | {"auto_map": {part: value}}))
        (folder / "tokenizer.json").unlink()
    else:
        map_ = {"AutoConfig": "own.Own", part: "own.Own"}
        configured(folder, model_type="own", auto_map=map_)
    with pytest.raises(UserError, match="own"):
        load_learner(name)
    assert not (tmp_path / "ran").exists()


def test_no_learner_asks_to_trust_code(monkeypatch, copy):
    """Every call says no: left out, transformers asks on standard input."""
    asked = []
    for made in (AutoModelForCausalLM, AutoConfig):
        call = made.from_pretrained

        def noting(*args, call=call, **given):
            asked.append(given.get("trust_remote_code"))
            return call(*args, **given)

        monkeypatch.setattr(made, "from_pretrained", noting)
    load_learner(copy(lambda t: None))
    assert asked and not any(asked) and None not in asked


def test_narrow_floating_point_is_no_quantisation(copy):
    def halved(tensors):
        tensors.update({key: x.bfloat16() for key, x in tensors.items()})

    learner, _ = load_learner(copy(halved))
    assert next(learner.parameters()).dtype == torch.float32


def test_a_name_that_transformers_has_not_is_said_to_be_one(copy, tmp_path):
    name = copy(lambda t: None)
    configured(tmp_path / "copy", hidden_act="foo")
    with pytest.raises(UserError, match="names 'foo', which transformers has not"):
        load_learner(name)
    with pytest.raises(UserError, match="is a file, and no GGUF; give the directory"):
        load_learner(f"{name}/config.json")
