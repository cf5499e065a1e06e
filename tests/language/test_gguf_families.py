"""GGUF files of many architectures: the same logits as the learner they were made of, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    NemotronConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
    Starcoder2Config,
)

from vfunc.errors import UserError
from vfunc.language.gguf import load_gguf

gguf = pytest.importorskip("gguf")
WORDS = ["<|end|>", *(chr(c) for c in range(33, 127)), "Ġ", "Ċ", "1Ġ", "Ġ2", "ab", "²", "a²"]
HEADS, KEYS, BLOCKS = 4, 2, 2
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEYS,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
Q8 = gguf.GGMLQuantizationType.Q8_0


def angles(base=1e4, **more):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": base, **more}}


def learner(config):
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(config).float().eval()
    with torch.no_grad():
        for p in made.parameters():
            p.add_(0.2 * torch.randn_like(p))
    return made


def rotated(x, heads):
    """Rows of a query's or key's weight as llama.cpp keeps them: pairs stand side by side."""
    return x.reshape(heads, 2, len(x) // heads // 2, -1).swapaxes(1, 2).reshape(x.shape)


def written(
    path, made, architecture, *, header=(), kind=None, cut="default", merges=("1 Ġ", "Ġ 2")
):
    """The learner as llama.cpp's converter writes it."""
    config, out = made.config, gguf.GGUFWriter(str(path), architecture)
    out.add_context_length(256)
    out.add_embedding_length(32)
    out.add_block_count(BLOCKS)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(HEADS)
    out.add_head_count_kv(1 if architecture == "falcon" else KEYS)
    own = {"head_dim": "key_length", "sliding_window": "sliding_window"}
    for ours, theirs in own.items():
        if value := getattr(config, ours, None):
            getattr(out, f"add_{theirs}")(value)
    for ours in (
        "rms_norm_eps",
        "norm_eps",
        "norm_epsilon",
        "layer_norm_eps",
        "layer_norm_epsilon",
    ):
        if value := getattr(config, ours, None):
            add = out.add_layer_norm_rms_eps if "rms" in ours else out.add_layer_norm_eps
            add(value)
    rotary = config.rope_parameters
    rotary = rotary.get("full_attention", rotary)
    width = getattr(config, "head_dim", None) or 32 // HEADS
    out.add_rope_freq_base(rotary["rope_theta"])
    out.add_rope_dimension_count(int(rotary.get("partial_rotary_factor", 1) * width))
    for name, value in dict(header).items():
        getattr(out, f"add_{name}")(value)
    out.add_vocab_size(len(WORDS))
    out.add_pad_token_id(0)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(cut)
    out.add_token_list(WORDS)
    out.add_token_types([3, *[1] * (len(WORDS) - 1)])
    out.add_token_merges(list(merges))
    out.add_bos_token_id(0)
    out.add_eos_token_id(0)
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == architecture)
    names, tied = gguf.get_tensor_name_map(arch, BLOCKS), config.tie_word_embeddings
    for key, x in made.state_dict().items():
        if key == "lm_head.weight" and tied:
            continue
        base, _, suffix = key.rpartition(".")
        name, x = f"{names.get_name(base)}.{suffix}", x.numpy().copy()
        if architecture == "llama" and ".attn_q." in name:
            x = rotated(x, HEADS)
        if architecture == "llama" and ".attn_k." in name:
            x = rotated(x, KEYS)
        if architecture in ("gemma2", "gemma3", "nemotron") and name.endswith("norm.weight"):
            x = x + 1
        if kind is not None and x.ndim == 2:
            out.add_tensor(name, gguf.quantize(x, kind), raw_dtype=kind)
        else:
            out.add_tensor(name, np.ascontiguousarray(x))
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return str(path)


def logits(made, length=24):
    tokens = torch.randint(1, 90, (2, length), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return made(input_ids=tokens, use_cache=False).logits


GEMMA = SIZES | {"head_dim": 256, "sliding_window": 8}
HALF = angles(partial_rotary_factor=0.5)
READ = {
    "llama": ("llama", LlamaConfig(**SIZES, **angles(5e5), rms_norm_eps=1e-3)),
    "wide heads": ("llama", LlamaConfig(**SIZES, head_dim=16)),
    "tied": ("llama", LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen2": ("qwen2", Qwen2Config(**SIZES, **angles(1e6))),
    "qwen3": ("qwen3", Qwen3Config(**SIZES, head_dim=128, **angles(1e6))),
    "gemma2": ("gemma2", Gemma2Config(**GEMMA)),
    "gemma3": ("gemma3", Gemma3TextConfig(**GEMMA)),
    "phi3": ("phi3", Phi3Config(**SIZES, **angles(5e5))),
    "nemotron": ("nemotron", NemotronConfig(**SIZES, head_dim=8, **HALF)),
    "falcon": ("falcon", FalconConfig(**SIZES)),
}


@pytest.mark.parametrize("case", READ)
def test_what_is_read_is_the_learner(case, tmp_path):
    architecture, config = READ[case]
    made = learner(config)
    found, _ = load_gguf(written(tmp_path / "x.gguf", made, architecture))
    torch.testing.assert_close(logits(found), logits(made), rtol=1e-5, atol=1e-5)


NARROW = SIZES | {"head_dim": 16}
REFUSED = {
    "angles": ("starcoder2", Starcoder2Config(**SIZES, **angles(1e5)), r"rope.freq_base 100000, .* 10000"),
    "share of angles": ("stablelm", StableLmConfig(**SIZES, **HALF), r"dimension_count 4, .* with 2"),
    "part of angles": ("phi3", Phi3Config(**SIZES, **HALF), r"dimension_count 4, .* with 8"),
    "eps": ("falcon", FalconConfig(**SIZES, layer_norm_epsilon=0.01), r"norm_epsilon 0.01, .* 1e-05"),
    "scores, gemma2": ("gemma2", Gemma2Config(**NARROW, query_pre_attn_scalar=16), "width 16, .* 256"),
    "scores, gemma3": ("gemma3", Gemma3TextConfig(**NARROW, query_pre_attn_scalar=16), "width 16"),
    "heads": ("qwen3", Qwen3Config(**NARROW), r"another shape: .*k_norm.* by its header"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_transformers_leaves_out_of_a_header_is_refused(case, tmp_path):
    architecture, config, said = REFUSED[case]
    with pytest.raises(UserError, match=said) as refused:
        load_gguf(written(tmp_path / "x.gguf", learner(config), architecture))
    assert "\n" not in str(refused.value)


def test_a_head_that_caps_or_scales_otherwise_is_refused(tmp_path):
    made = learner(LlamaConfig(**SIZES))
    for header in (
        {"logit_scale": 0.5},
        {"final_logit_softcapping": 3.0},
        {"causal_attention": False},
    ):
        with pytest.raises(UserError, match="does not read from GGUF: it would compute with"):
            load_gguf(written(tmp_path / "x.gguf", made, "llama", header=header))
    gemma = learner(Gemma2Config(**GEMMA))
    caps = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
    assert load_gguf(written(tmp_path / "x.gguf", gemma, "gemma2", header=caps))
    with pytest.raises(UserError, match=r"attn_logit_softcapping 20, .* 50"):
        caps["attn_logit_softcapping"] = 20.0
        load_gguf(written(tmp_path / "x.gguf", gemma, "gemma2", header=caps))


def test_a_window_that_is_not_read_bounds_the_context(tmp_path):
    made = learner(Phi3Config(**SIZES, sliding_window=8))
    found, _ = load_gguf(written(tmp_path / "x.gguf", made, "phi3"))
    assert found.config.max_position_embeddings == 8
    assert torch.equal(logits(found, 8), logits(made, 8))
    assert not torch.allclose(logits(found, 24), logits(made, 24), atol=0.1)


def test_quantised_numbers_are_the_files(tmp_path):
    made = learner(LlamaConfig(**SIZES))
    found, _ = load_gguf(written(tmp_path / "x.gguf", made, "llama", kind=Q8))
    own = made.state_dict()
    for key, x in found.state_dict().items():
        want = own[key]
        if want.ndim == 2 and want.shape[1] % 32 == 0:
            want = torch.from_numpy(gguf.dequantize(gguf.quantize(want.numpy(), Q8), Q8))
        assert torch.equal(x, want) or "down_proj" in key, key


def test_a_tokenizer_that_cuts_texts_otherwise_is_refused(tmp_path):
    made = learner(LlamaConfig(**SIZES))
    for cut in ("qwen2", "smollm", "gpt-2"):
        assert load_gguf(
            written(tmp_path / "x.gguf", made, "llama", cut=cut, merges=("a b", "a ²"))
        )
    for cut in ("deepseek-llm", "smollm"):
        with pytest.raises(UserError, match=f"cuts texts as '{cut}' .* tokens would be others"):
            load_gguf(written(tmp_path / "x.gguf", made, "llama", cut=cut))
