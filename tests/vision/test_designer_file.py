"""Designers of views on disk: what is written is what is read, and nothing else is."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest
import torch
from safetensors.torch import save_file

from vfunc import UserError
from vfunc.designer_file import save_designer
from vfunc.language.soft_targets.designer import DesignerConfig, TopKDesigner, load_designer
from vfunc.language.soft_targets.targets import TargetForm
from vfunc.vision.designers.view_designer import (
    ViewDesigner,
    ViewDesignerConfig,
    load_view_designer,
)

FORMAT = "vfunc.ViewDesigner"  # of every file that there is: a renamed class may not change it
CONFIGS = [
    ViewDesignerConfig("unet", width=8, depth=2, block=16, keep=0.4, blur=0.1, start=0.8),
    ViewDesignerConfig("dit", width=16, depth=1, heads=2, patch=4),
    ViewDesignerConfig("photometric", width=8, depth=2),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: config.kind)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_designer_comes_back_as_it_was(tmp_path, config, dtype):
    designer = ViewDesigner(config).to(dtype)
    path = tmp_path / "designer.safetensors"
    save_designer(designer, path)
    before = torch.get_rng_state()
    loaded = load_view_designer(path)
    assert torch.equal(torch.get_rng_state(), before)
    assert loaded.config == config
    images = torch.rand(2, 3, 16, 16, dtype=dtype)
    for found, expected in zip(loaded(images), designer(images), strict=True):
        assert torch.equal(found, expected)
    assert all(x.requires_grad and x.is_leaf for x in loaded.parameters())


def test_equal_designers_have_equal_bytes_and_a_loaded_one_is_free_of_its_file(tmp_path):
    designer = ViewDesigner(CONFIGS[0])
    paths = [tmp_path / name for name in ("a.safetensors", "b.safetensors")]
    for path in paths:
        save_designer(designer, path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    loaded = load_view_designer(paths[0])
    save_designer(ViewDesigner(CONFIGS[0]), paths[0])
    for found, expected in zip(loaded.parameters(), designer.parameters(), strict=True):
        assert torch.equal(found, expected)


def damaged(tensors, header):
    """Ways to be no designer of views, and what is said of them."""
    first = next(iter(tensors))
    whole = {FORMAT: header}
    fewer = {name: x for name, x in tensors.items() if name != first}
    wrong = tensors | {first: torch.ones(2)}
    unlike = json.dumps(json.loads(header) | {"colour": 1})
    unknown = json.dumps(json.loads(header) | {"kind": "vit"})
    word = json.dumps(json.loads(header) | {"width": "wide"})
    return {
        "lacks a tensor": (fewer, whole, f"is damaged: .*Missing key.*{first}"),
        "has nothing": ({}, whole, "is damaged: .*Missing key.*…$"),
        "has one too many": (tensors | {"x": torch.ones(2)}, whole, "is damaged: .*Unexpected.*x"),
        "of another shape": (wrong, whole, f"is damaged: .*size mismatch for {first}"),
        "not finite": (tensors | {first: tensors[first] / 0}, whole, f"{first} is not finite"),
        "no json": (tensors, {FORMAT: "{"}, "is damaged"),
        "unknown option": (tensors, {FORMAT: unlike}, "is damaged: .*colour"),
        "unknown kind": (tensors, {FORMAT: unknown}, "is damaged"),
        "no number": (tensors, {FORMAT: word}, "is damaged"),
        "another file": (tensors, {"format": "pt"}, "is not a saved designer of views$"),
        "no header": (tensors, None, "is not a saved designer of views$"),
    }


@pytest.mark.parametrize("how", damaged({"a": torch.ones(1)}, "{}"))
def test_other_and_damaged_files_are_refused_in_one_line(tmp_path, how):
    designer = ViewDesigner(CONFIGS[0])
    header = json.dumps(asdict(designer.config))
    tensors, metadata, message = damaged(dict(designer.state_dict()), header)[how]
    path = tmp_path / "designer.safetensors"
    save_file(tensors, str(path), metadata=metadata)
    with pytest.raises(UserError, match=message) as caught:
        load_view_designer(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("content", [b"", b"not a designer", None])
def test_files_that_cannot_be_read_are_refused(tmp_path, content):
    path = tmp_path / "designer.safetensors"
    save_designer(ViewDesigner(CONFIGS[0]), path)
    path.write_bytes(path.read_bytes()[:-5] if content is None else content)
    with pytest.raises(UserError, match="cannot be read"):
        load_view_designer(path)
    with pytest.raises(UserError, match="does not exist"):
        load_view_designer(tmp_path / "none.safetensors")


def test_a_designer_of_one_modality_is_none_of_the_other(tmp_path):
    path = tmp_path / "designer.safetensors"
    language = DesignerConfig(7, TargetForm(), width=8, layers=1, heads=2)
    save_designer(TopKDesigner(language), path)
    with pytest.raises(UserError, match=r"not a saved designer of views; .* vfunc.TopKDesigner$"):
        load_view_designer(path)
    save_designer(ViewDesigner(CONFIGS[0]), path)
    with pytest.raises(UserError, match="is not a saved designer"):
        load_designer(path)
