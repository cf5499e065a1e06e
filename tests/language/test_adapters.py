"""Whatever a run writes of its learner, `--learner` reads back."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoTokenizer

from vfunc.errors import UserError
from vfunc.language.embedded_learner import EMBEDDED_LEARNER
from vfunc.language.loading import load_learner, start_learner
from vfunc.language.reporting import language_saving

TOKENS = torch.arange(5, 25)[None]


def logits(module):
    module.eval()
    with torch.no_grad():
        return module(input_ids=TOKENS).logits


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Adapters that have learned something, as a run writes them; and what they say."""
    folder = tmp_path_factory.mktemp("lora") / "learners/vpretraining"
    start = start_learner(str(EMBEDDED_LEARNER), 4, 8.0, 0.05)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for x in start.module.parameters():
            if x.requires_grad:
                x.copy_(torch.randn(x.shape, generator=generator) * 0.1)
    language_saving(start.tokenizer).learner(start.module, folder)
    return folder, logits(start.module), logits(load_learner(str(EMBEDDED_LEARNER))[0])


def test_adapters_of_the_same_rank_are_trained_on(written):
    folder, expected, plain = written
    start = start_learner(str(folder), 4, 8.0, 0.5)
    torch.testing.assert_close(logits(start.module), expected)
    assert (expected - plain).abs().max() > 0.1
    trained = [name for name, x in start.module.named_parameters() if x.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    dropouts = [m.p for name, m in start.module.named_modules() if isinstance(m, torch.nn.Dropout)]
    assert dropouts and set(dropouts) == {0.5}  # the run's own
    assert "are trained on" in start.note and str(EMBEDDED_LEARNER) in start.note
    again = folder.parent / "again"
    language_saving(start.tokenizer).learner(start.module, again)
    torch.testing.assert_close(logits(start_learner(str(again), 4, 8.0, 0.0).module), expected)


@pytest.mark.parametrize("rank", [0, 2])
def test_otherwise_they_are_merged_and_a_line_says_so(written, rank, tmp_path):
    folder, expected, _ = written
    start = start_learner(str(folder), rank, 4.0, 0.0)
    torch.testing.assert_close(logits(start.module), expected, atol=2e-4, rtol=1e-4)
    names = [name for name, x in start.module.named_parameters() if x.requires_grad]
    assert names and all(("lora_" in name) == bool(rank) for name in names)
    assert "merged into" in start.note
    # adapters of a merged learner find it again, and not its base
    language_saving(start.tokenizer).learner(start.module, tmp_path / "x")
    learner, tokenizer = load_learner(str(tmp_path / "x"))
    torch.testing.assert_close(logits(learner), expected, atol=2e-4, rtol=1e-4)
    assert tokenizer("5")["input_ids"] == start.tokenizer("5")["input_ids"]


def test_a_base_by_a_relative_path_is_found_from_elsewhere(written, tmp_path, monkeypatch):
    shutil.copytree(EMBEDDED_LEARNER, tmp_path / "here/base")
    monkeypatch.chdir(tmp_path / "here")
    start = start_learner("base", 2, 4.0, 0.0)
    language_saving(start.tokenizer).learner(start.module, tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    load_learner("out")


def faulty(folder, tmp_path, change):
    shutil.copytree(folder, tmp_path / "x")
    change(tmp_path / "x")
    with pytest.raises(UserError) as caught:
        start_learner(str(tmp_path / "x"), 4, 8.0, 0.0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(**changes):
    def change(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (rewrite(base_model_name_or_path="/gone/base"), "'/gone/base', which is not there"),
        (rewrite(base_model_name_or_path=None), "do not say which learner they adapt"),
        (rewrite(lora_alpha=9), "have --lora-alpha 9, not 8"),
        (rewrite(peft_type="IA3", feedforward_modules=[]), "only LoRA adapters are read"),
        (rewrite(target_modules=["q_proj"]), "do not fit the base"),
        (lambda f: (f / "adapter_config.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "adapter_model.safetensors").unlink(), "cannot be put onto"),
        (lambda f: (f / "adapter_model.safetensors").write_bytes(b"x" * 99), "cannot be put onto"),
    ],
)
def test_adapters_that_cannot_be_read_are_refused_in_one_line(written, tmp_path, change, said):
    assert said in faulty(written[0], tmp_path, change)


def saved_with(tmp_path, **changes):
    """The embedded learner with another tokenizer or configuration."""
    shutil.copytree(EMBEDDED_LEARNER, tmp_path / "x")
    tokenizer = AutoTokenizer.from_pretrained(EMBEDDED_LEARNER)
    added = changes.pop("added", [])
    tokenizer.add_tokens(added, special_tokens=True)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(tmp_path / "x")
    return str(tmp_path / "x")


def test_padding_beyond_the_embedding_becomes_the_end(tmp_path):
    name = saved_with(tmp_path, added=["<pad>"], pad_token="<pad>")
    learner, tokenizer = load_learner(name)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert tokenizer.pad_token_id < learner.get_input_embeddings().num_embeddings


def test_an_end_beyond_the_embedding_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"embedding of \d+ rows.*'<end>' is number \d+") as caught:
        load_learner(saved_with(tmp_path, added=["<end>"], eos_token="<end>"))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_an_end_takes_the_learners_or_is_refused(tmp_path):
    name = saved_with(tmp_path, eos_token=None)
    config = tmp_path / "x/config.json"
    own = AutoTokenizer.from_pretrained(EMBEDDED_LEARNER).eos_token_id
    config.write_text(json.dumps(json.loads(config.read_text()) | {"eos_token_id": own}))
    assert load_learner(name)[1].eos_token_id == own
    for path in (config, tmp_path / "x/generation_config.json"):
        if path.is_file():
            settings = json.loads(path.read_text()) | {"eos_token_id": None}
            path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="without an end-of-text token"):
        load_learner(name)
