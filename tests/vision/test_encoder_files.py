"""Encoders by name, from a seed, from a directory: the same numbers back, or one clear line."""

from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from vfunc.errors import UserError
from vfunc.vision.encoder import named_encoder as learner
from vfunc.vision.encoder import timm_vit
from vfunc.vision.encoder.architecture import Architecture
from vfunc.vision.encoder.embedded_encoder import EMBEDDED_ARCHITECTURE, embedded_encoder
from vfunc.vision.encoder.encoder_file import load_encoder, save_encoder
from vfunc.vision.encoder.named_encoder import Encoder, count_parameters, make_encoder
from vfunc.vision.encoder.timm_vit import build_encoder

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
PLANS = {
    "class token": Architecture("vit_tiny_patch16_224", TINY, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    "norm after pooling": Architecture("vit_tiny_patch16_224", {**TINY, "global_pool": "avg"}),
    "no class token": Architecture(
        "vit_tiny_patch16_224", {**TINY, "class_token": False, "global_pool": "avg"}
    ),
    "dinov3": Architecture("vit_small_patch16_dinov3", TINY),
    "eva02": Architecture("eva02_tiny_patch14_224", TINY),
}
IMAGES = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))


def tiny(kind="class token", seed=0):
    return build_encoder(PLANS[kind], seed=seed).eval()


def line(error):
    text = str(error.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize("kind", PLANS)
def test_what_is_saved_is_what_is_loaded(kind, tmp_path):
    encoder = tiny(kind)
    save_encoder(encoder, tmp_path / "one")
    loaded = make_encoder(str(tmp_path / "one"), seed=5).eval()
    assert loaded.state_dict().keys() == encoder.state_dict().keys()
    assert torch.equal(loaded.tokens(IMAGES), encoder.tokens(IMAGES))
    save_encoder(loaded, tmp_path / "two")
    for name in ("config.json", "model.safetensors"):
        one, two = ((tmp_path / d / name).read_bytes() for d in ("one", "two"))
        assert one == two, name


@pytest.mark.parametrize("kind", PLANS)
def test_timm_loads_what_is_saved(kind, tmp_path):
    encoder = tiny(kind)
    save_encoder(encoder, tmp_path)
    vit = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert vit.state_dict().keys() == encoder.vit.state_dict().keys()
    mean, std = (torch.tensor(vit.pretrained_cfg[n])[:, None, None] for n in ("mean", "std"))
    want = vit.forward_features((IMAGES - mean) / std)
    torch.testing.assert_close(encoder.tokens(IMAGES), want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("older", [False, True])
def test_what_timm_saves_with_a_head_is_loaded(older, tmp_path):
    torch.manual_seed(3)
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=7, **TINY).eval()
    save_for_hf(vit, str(tmp_path), safe_serialization=True)
    if older:  # the count of classes beside the arguments alone
        path = tmp_path / "config.json"
        config = json.loads(path.read_text())
        del config["model_args"]["num_classes"]
        path.write_text(json.dumps(config))
    mean, std = (torch.tensor(vit.pretrained_cfg[n])[:, None, None] for n in ("mean", "std"))
    square = IMAGES[..., :24].repeat(1, 1, 1, 2)[..., :32]
    want = vit.forward_features((square - mean) / std)
    encoder = make_encoder(str(tmp_path))
    torch.testing.assert_close(encoder.tokens(square), want, rtol=1e-5, atol=1e-5)
    assert not any(name.startswith("vit.head") for name in encoder.state_dict())


def test_a_resized_encoder_is_saved_at_its_size(tmp_path):
    encoder = tiny()
    save_encoder(encoder, tmp_path / "a")
    bigger = load_encoder(tmp_path / "a", image_size=48)
    assert bigger.image_size == (48, 48)
    assert bigger.vit.pos_embed.shape[1] == 37
    save_encoder(bigger, tmp_path / "b")
    assert make_encoder(str(tmp_path / "b")).image_size == (48, 48)
    with pytest.raises(UserError, match="multiples of 8"):
        load_encoder(tmp_path / "a", image_size=44)


def test_an_encoder_of_unknown_make_is_not_saved(tmp_path):
    encoder = Encoder(timm.create_model("vit_tiny_patch16_224", **TINY))
    with pytest.raises(UserError, match="cannot be saved"):
        save_encoder(encoder, tmp_path / "new")


def damaged(directory, how):
    config, weights = directory / "config.json", directory / "model.safetensors"
    known, tensors = json.loads(config.read_text()), load_file(str(weights))
    if how == "no config":
        config.unlink()
    elif how == "no weights":
        weights.unlink()
    elif how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "not json":
        config.write_text("{")
    elif how == "a list":
        config.write_text("[1]")
    elif how == "no architecture":
        config.write_text(json.dumps({k: v for k, v in known.items() if k != "architecture"}))
    elif how == "no ViT":
        config.write_text(json.dumps(known | {"architecture": "resnet18"}))
    elif how == "strange argument":
        config.write_text(json.dumps(known | {"model_args": {"wings": 2}}))
    elif how == "no mean":
        config.write_text(json.dumps(known | {"pretrained_cfg": {"mean": [0.5], "std": [0.5]}}))
    elif how == "fewer tensors":
        del tensors["blocks.1.attn.qkv.weight"]
        save_file(tensors, str(weights))
    elif how == "more tensors":
        save_file(tensors | {"wing": torch.zeros(1)}, str(weights))
    elif how == "other shape":
        save_file(tensors | {"cls_token": torch.zeros(1, 1, 8)}, str(weights))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no config", "has no config.json"),
        ("no weights", "has no model.safetensors"),
        ("truncated", "is damaged"),
        ("not json", "is no configuration of a timm model"),
        ("a list", "is no configuration of a timm model"),
        ("no architecture", "KeyError: 'architecture'"),
        ("no ViT", "'resnet18' is no ViT"),
        ("strange argument", "cannot be built with"),
        ("no mean", "no mean and std of three channels"),
        ("fewer tensors", "1 parameters are missing, such as blocks.1.attn.qkv.weight"),
        ("more tensors", "1 tensors are no parameters of it, such as wing"),
        ("other shape", r"cls_token has shape \(1, 1, 8\), not \(1, 1, 16\)"),
    ],
)
def test_damaged_directories_are_refused(how, said, tmp_path):
    save_encoder(tiny(), tmp_path)
    damaged(tmp_path, how)
    with pytest.raises(UserError, match=said) as error:
        make_encoder(str(tmp_path))
    line(error)


def test_seeds():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    one, same, other = tiny(seed=1), tiny(seed=1), tiny(seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    one, same, other = (e.state_dict() for e in (one, same, other))
    assert all(torch.equal(one[n], same[n]) for n in one)
    assert not torch.equal(one["vit.patch_embed.proj.weight"], other["vit.patch_embed.proj.weight"])


def test_the_embedded_encoder(tmp_path, monkeypatch):
    encoder = embedded_encoder(0)
    shape = (encoder.patch, encoder.width, encoder.depth, encoder.image_size)
    assert shape == (8, 64, 12, (64, 64))
    assert encoder.vit.blocks[0].attn.num_heads == 4
    assert encoder.architecture == EMBEDDED_ARCHITECTURE
    random = make_encoder("embedded", pretrained=False, seed=0)
    assert torch.equal(random.vit.cls_token, encoder.vit.cls_token)
    monkeypatch.setattr(learner, "EMBEDDED_ENCODER", tmp_path / "there")
    with pytest.raises(UserError, match="without the embedded encoder's weights") as error:
        make_encoder("embedded")
    line(error)
    save_encoder(encoder, tmp_path / "there")
    loaded = make_encoder("embedded", image_size=32)
    assert loaded.image_size == (32, 32)
    assert torch.equal(loaded.vit.blocks[3].mlp.fc1.weight, encoder.vit.blocks[3].mlp.fc1.weight)


@pytest.mark.parametrize(
    ("name", "parameters", "patch", "prefix"),
    [
        ("vit_large_patch16_dinov3", 303_079_424, 16, 5),
        ("vit_huge_patch14_gap_224.in22k_ijepa", 630_762_240, 14, 0),
    ],
)
def test_large_encoders_on_the_meta_device(name, parameters, patch, prefix):
    encoder = make_encoder(name, image_size=224, device="meta")
    assert {x.device.type for x in (*encoder.parameters(), *encoder.buffers())} == {"meta"}
    assert count_parameters(encoder) == parameters
    assert (encoder.patch, encoder.prefix_tokens) == (patch, prefix)
    images = torch.empty(2, 3, 6 * patch, 6 * patch, device="meta")
    assert encoder.tokens(images).shape == (2, prefix + 36, encoder.width)
    assert encoder.dense(images, 4).maps.shape == (2, 4 * encoder.width, 6, 6)


def test_the_models_own_picture():
    imagenet = make_encoder("vit_tiny_patch16_224.augreg_in21k", pretrained=False, image_size=32)
    assert imagenet.mean.flatten().tolist() == [0.5] * 3
    assert imagenet.image_size == (32, 32)
    dinov3 = make_encoder("vit_small_patch16_dinov3", pretrained=False, device="meta")
    assert dinov3.image_size == (256, 256)
    assert dinov3.architecture.mean == pytest.approx((0.485, 0.456, 0.406))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("vit_bse_patch16_dinov3", "close: vit_base_patch16_dinov3"),
        ("zzz", "unknown encoder 'zzz'"),
        ("resnet50", "is no ViT"),
        ("vit_tiny_patch16_224.foo", "no weights 'foo'; it has .*augreg_in21k"),
        ("deit_tiny_distilled_patch16_224", "not a VisionTransformerDistilled"),
        ("./nowhere", "does not exist"),
        ("some/where", "does not exist"),
    ],
)
def test_names_that_mean_nothing(name, said):
    with pytest.raises(UserError, match=said) as error:
        make_encoder(name, pretrained=False)
    line(error)


def test_a_size_that_is_no_multiple():
    with pytest.raises(UserError, match="multiples of 16"):
        make_encoder("vit_tiny_patch16_224", pretrained=False, image_size=100, device="meta")


def test_weights_without_a_network(monkeypatch):
    """The cache alone is read, then: without the hub's minute of retries."""
    from huggingface_hub import constants

    tried = []

    class Unreachable:
        def head(self, *args, **kwargs):
            raise ConnectionError("no route")

    def create(name, **kwargs):
        tried.append((name, kwargs["pretrained"], constants.HF_HUB_OFFLINE))
        raise FileNotFoundError("not in\nthe cache")

    monkeypatch.setattr("huggingface_hub.utils.get_session", Unreachable)
    monkeypatch.setattr(timm_vit.timm, "create_model", create)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(UserError, match="does not answer; give --no-pretrained") as error:
        make_encoder("vit_tiny_patch16_224")
    line(error)
    assert tried == [("vit_tiny_patch16_224", True, True)]
    assert constants.HF_HUB_OFFLINE is False


def test_weights_that_do_not_exist(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="timm has none for it") as error:
        make_encoder("test_vit4")
    line(error)
